//! A real Chromium without a window, driven over the DevTools protocol: what a person would do, by mouse and keys.
//!
//! The protocol runs over two pipes (`--remote-debugging-pipe`), not over a WebSocket: there is no port to find, no
//! further crate to build, and a browser whose test was killed sees the pipe's end and leaves. Messages are JSON, each
//! ended by NUL. One browser, one tab: a [`Page`].
//!
//! A click is a mouse that moves to the element's middle, presses and releases there; it fails when something else
//! lies on top.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::PATIENCE;

/// The browser's own work (updates, reports, keyrings) has no place in a test.
const FLAGS: &[&str] = &[
    "--headless=new",
    "--remote-debugging-pipe",
    // Its sandbox does not start as root or in most containers; it loads nothing here but our own pages.
    "--no-sandbox",
    "--disable-gpu",
    // A container's /dev/shm is often too small.
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-breakpad",
    "--disable-extensions",
    "--disable-sync",
    "--no-first-run",
    "--no-default-browser-check",
    "--no-proxy-server",
    "--password-store=basic",
];

/// See the module. Ended when dropped.
#[derive(Debug)]
pub struct Page {
    child: Child,
    to: Option<ChildStdin>,
    from: Receiver<Value>,
    session: Option<String>,
    calls: u64,
    complaints: Vec<String>,
    files: TempDir,
}

/// What the browser complained about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Complaint {
    /// Exceptions, and what the page wrote to the console as a warning or an error.
    OfScripts,
    /// These, and requests that failed.
    Any,
}

impl Page {
    /// Starts a browser and opens an address.
    pub fn open(url: &str) -> Page {
        let files = TempDir::new().unwrap();
        // The pipes are descriptors 3 and 4; a shell can put them there without unsafe code.
        let mut child = Command::new("sh")
            .args(["-c", r#"exec "$0" "$@" 3<&0 4>&1 </dev/null >/dev/null"#, "chromium"])
            .args(FLAGS)
            .arg(format!("--user-data-dir={}", files.path().join("profile").display()))
            .arg("about:blank")
            .env("HOME", files.path())
            .env("TMPDIR", files.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(files.path().join("stderr")).unwrap())
            .spawn()
            .unwrap();
        let (to, from) = (child.stdin.take(), messages(child.stdout.take().unwrap()));
        let mut page = Page { child, to, from, session: None, calls: 0, complaints: Vec::new(), files };
        let target = page.call("Target.createTarget", json!({"url": "about:blank"}))["targetId"].clone();
        let attached = page.call("Target.attachToTarget", json!({"targetId": target, "flatten": true}));
        page.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Page", "Runtime", "Log"] {
            page.call(&format!("{domain}.enable"), json!({}));
        }
        page.go_to(url);
        page
    }

    /// Opens another address in the same tab.
    pub fn go_to(&mut self, url: &str) {
        let answer = self.call("Page.navigate", json!({"url": url}));
        assert_eq!(answer["errorText"], Value::Null, "{url}: {answer}");
    }

    /// Sets the window's size.
    pub fn resize(&mut self, width: u32, height: u32) {
        let size = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        self.call("Emulation.setDeviceMetricsOverride", size);
    }

    /// What a JavaScript expression gives, as JSON.
    pub fn value(&mut self, expression: &str) -> Value {
        let question = json!({"expression": expression, "returnByValue": true, "awaitPromise": true});
        let answer = self.call("Runtime.evaluate", question);
        assert_eq!(answer["exceptionDetails"], Value::Null, "{expression}");
        answer["result"]["value"].clone()
    }

    /// The text of the first element that matches, as it is shown; `None` when there is none in sight.
    pub fn text(&mut self, selector: &str) -> Option<String> {
        let text = self.value(&format!(
            "(() => {{ const e = document.querySelector({}); return e?.checkVisibility() ? e.innerText : null }})()",
            json!(selector)
        ));
        text.as_str().map(str::to_owned)
    }

    /// The texts of all elements that match and are in sight, in the document's order.
    pub fn texts(&mut self, selector: &str) -> Vec<String> {
        let texts = self.value(&format!(
            "[...document.querySelectorAll({})].filter(e => e.checkVisibility()).map(e => e.innerText)",
            json!(selector)
        ));
        texts.as_array().unwrap().iter().map(|text| text.as_str().unwrap().to_owned()).collect()
    }

    /// Waits until an element's text is as wanted, and gives it.
    pub fn wait_text(&mut self, selector: &str, what: &str, wanted: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let text = self.text(selector);
            if let Some(text) = text.clone().filter(|text| wanted(text)) {
                return text;
            }
            assert!(Instant::now() < deadline, "waited in vain for {selector} to be {what}; it is {text:?}");
            // Between two looks at the condition, the page needs the processor more.
            thread::sleep(super::LOOK_AGAIN * 4);
        }
    }

    /// Clicks the middle of an element.
    pub fn click(&mut self, selector: &str) {
        let middle = self.value(&format!(
            "(() => {{
                const wanted = document.querySelector({});
                wanted.scrollIntoView({{block: 'nearest'}});
                const box = wanted.getBoundingClientRect(), x = box.x + box.width / 2, y = box.y + box.height / 2;
                return wanted.contains(document.elementFromPoint(x, y)) ? {{x, y}} : null;
            }})()",
            json!(selector)
        ));
        assert!(middle.is_object(), "{selector} cannot be clicked: it is not in sight, or something lies on top");
        for (kind, clicks) in [("mouseMoved", 0), ("mousePressed", 1), ("mouseReleased", 1)] {
            let button = if clicks == 0 { "none" } else { "left" };
            let (x, y) = (&middle["x"], &middle["y"]);
            let event = json!({"type": kind, "x": x, "y": y, "button": button, "clickCount": clicks});
            self.call("Input.dispatchMouseEvent", event);
        }
    }

    /// Presses keys, one for each character, wherever the focus is.
    pub fn press(&mut self, keys: &str) {
        for key in keys.chars().map(String::from) {
            self.call("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": key, "text": key}));
            self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
        }
    }

    /// Presses Backspace.
    pub fn erase(&mut self, times: usize) {
        for _ in 0..times {
            for kind in ["rawKeyDown", "keyUp"] {
                let key = json!({"type": kind, "key": "Backspace", "code": "Backspace", "windowsVirtualKeyCode": 8});
                self.call("Input.dispatchKeyEvent", key);
            }
        }
    }

    /// Fails when the browser has complained about the page.
    #[track_caller]
    pub fn assert_quiet(&mut self, about: Complaint) {
        // What was said before the answer to this has been read when it is there.
        self.value("0");
        let heard = self.complaints.iter().filter(|one| about == Complaint::Any || !one.starts_with("network"));
        let heard: Vec<&String> = heard.collect();
        assert!(heard.is_empty(), "the browser complains: {heard:#?}");
    }

    fn call(&mut self, method: &str, params: Value) -> Value {
        self.calls += 1;
        let mut question = json!({"id": self.calls, "method": method});
        question["params"] = params;
        if let Some(session) = &self.session {
            question["sessionId"] = json!(session);
        }
        let sent = self.to.as_mut().map(|pipe| pipe.write_all(format!("{question}\0").as_bytes()));
        if !matches!(sent, Some(Ok(()))) {
            self.fail(method);
        }
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.from.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(message) if message["id"] == self.calls => {
                    assert_eq!(message["error"], Value::Null, "{method}");
                    return message["result"].clone();
                }
                Ok(event) => self.complaints.extend(complaint(&event)),
                Err(RecvTimeoutError::Timeout) => panic!("the browser does not answer {method}"),
                Err(RecvTimeoutError::Disconnected) => self.fail(method),
            }
        }
    }

    fn fail(&self, method: &str) -> ! {
        let said = std::fs::read_to_string(self.files.path().join("stderr")).unwrap_or_default();
        panic!(
            "no browser ({method}): these tests need a Chromium as `chromium` on the PATH; \
             on Debian: apt-get install chromium. It said: {said}"
        );
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        // At the pipe's end it leaves by itself, and has its children leave; their files are deleted after that.
        self.to = None;
        let deadline = Instant::now() + PATIENCE / 4;
        while !matches!(self.child.try_wait(), Ok(Some(_))) {
            if Instant::now() > deadline {
                let _ = self.child.kill();
                let _ = self.child.wait();
                return;
            }
            // Until the deadline.
            thread::sleep(super::LOOK_AGAIN);
        }
    }
}

/// What an event of the protocol complains about, if anything.
fn complaint(event: &Value) -> Option<String> {
    let params = &event["params"];
    match event["method"].as_str()? {
        "Runtime.exceptionThrown" => Some(format!("exception: {}", params["exceptionDetails"])),
        "Runtime.consoleAPICalled" if ["error", "warning", "assert"].iter().any(|kind| params["type"] == *kind) => {
            Some(format!("console: {}", params["args"]))
        }
        "Log.entryAdded" if ["error", "warning"].iter().any(|level| params["entry"]["level"] == *level) => {
            let entry = &params["entry"];
            Some(format!("{}: {} {}", entry["source"].as_str()?, entry["text"], entry["url"]))
        }
        "Inspector.targetCrashed" => Some("the page crashed".into()),
        _ => None,
    }
}

/// Messages as they come. A thread reads, since a pipe has no deadlines.
fn messages(pipe: impl std::io::Read + Send + 'static) -> Receiver<Value> {
    let (sender, receiver) = channel();
    thread::spawn(move || {
        for message in BufReader::new(pipe).split(0).map_while(Result::ok) {
            let Ok(message) = serde_json::from_slice(&message) else { break };
            if sender.send(message).is_err() {
                break;
            }
        }
    });
    receiver
}
