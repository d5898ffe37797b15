//! What `docs/REDIS.md` gives to be copied does what it says.

use std::path::Path;
use std::process::Command;

use super::*;

fn manual() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/REDIS.md")).unwrap()
}

/// Has the server do what a line of words says, by a user's name if there is one.
fn set_user(redis: &RedisServer, line: &str) {
    let words: Vec<&[u8]> = line.split(' ').map(|word| word.trim_matches('\'').as_bytes()).collect();
    redis.client().command(&words);
}

#[test]
fn the_rights_that_are_documented_are_enough() {
    let manual = manual();
    let line = manual.lines().find(|line| line.starts_with("ACL SETUSER fanwheel ")).expect("a line to copy");
    let redis = RedisServer::start();
    set_user(&redis, line);
    let url = redis.url().replace("redis://", "redis://fanwheel:secret@");
    let node = Node { server: launch().flag("--redis", &url).start(), redis: Some(redis) };
    let first = publish(&node, "d.a", "one");
    let key = [("idempotency-key", "k")];
    id_of(&request(node.server.public, "POST", "/topics/d.a", &key, b"two"));
    id_of(&request(node.server.public, "POST", "/topics/d.a", &key, b"two"));
    let mut client = node.redis().client();
    client.command(&[b"HSET", b"fanwheel:{0}:clock", b"run", b"another"]);
    client.command(&[b"SCRIPT", b"FLUSH"]);
    let mut stream = Stream::begin(node.server.public, "topic=d.a&last=2");
    stream.expect_open();
    assert_eq!([next(&mut stream).1, next(&mut stream).1], ["one", "two"]);
    let mut stream = Stream::begin(node.server.public, &format!("topic=d.a&last_event_id={first}"));
    stream.expect_open();
    assert_eq!(next(&mut stream).1, "two");
    assert!(!node.server.log().contains("WARN Redis refuses"), "{}", node.server.log());
}

#[test]
fn the_rights_of_who_only_publishes_are_enough_for_the_function() {
    let manual = manual();
    let after = manual.split("Other programs that only publish need").nth(1).expect("what they need");
    let rights = after.split('`').find(|text| text.contains("+xadd")).expect("a list of rights");
    assert!(after.starts_with("\n`+fcall`") && rights.ends_with(" +publish"), "{rights}");
    let redis = RedisServer::start();
    let script = std::fs::read(concat!(env!("CARGO_MANIFEST_DIR"), "/redis/fanwheel.lua")).unwrap();
    let mut admin = redis.client();
    admin.command(&[b"FUNCTION", b"LOAD", &script]);
    set_user(&redis, &format!("ACL SETUSER p on nopass ~fanwheel:{{0}}:* &fanwheel:* +fcall {rights}"));
    let mut client = redis.client();
    client.command(&[b"AUTH", b"p", b"any"]);
    let mut publish = |data: &str, age: &str, key: &str| {
        let text = format!(
            "FCALL fanwheel_publish 4 fanwheel:{{0}}:clock fanwheel:{{0}}:index fanwheel:{{0}}:s:d.a \
             fanwheel:{{0}}:i:d.a:{key} _ abcd1234efgh5678 fanwheel: _ _ {data} 1 {age} 60000"
        );
        let words: Vec<&[u8]> = text.split(' ').map(|word| if word == "_" { b"" } else { word.as_bytes() }).collect();
        match client.command(&words) {
            Reply::Array(parts) => parts[2].text(),
            other => panic!("{other:?}"),
        }
    };
    // An epoch begins; a stream is left of an earlier one; the same again; another under its key; what is too old goes.
    admin.command(&[b"XADD", b"fanwheel:{0}:s:d.a", b"1-1", b"m", b"old"]);
    let first = publish("x", "0", "k");
    assert_eq!(first.split('-').count(), 3, "{first}");
    assert_eq!(publish("x", "0", "k"), first);
    assert!(publish("y", "0", "k").starts_with("CONFLICT "));
    admin.command(&[b"HSET", b"fanwheel:{0}:clock", b"run", b"another", b"last", b"9000000000000-0"]);
    let second = publish("z", "1000", "l");
    assert!(second.starts_with("9000000000000-1-") && !second.ends_with(first.rsplit('-').next().unwrap()), "{second}");
    // Another stands where its event would: it is refused, and nothing of it stays.
    admin.command(&[b"DEL", b"fanwheel:{0}:s:d.a"]);
    admin.command(&[b"SET", b"fanwheel:{0}:s:d.a", b"x"]);
    assert!(publish("x", "0", "m").starts_with("WRONGTYPE "));
    assert_eq!(admin.command(&[b"EXISTS", b"fanwheel:{0}:i:d.a:m"]), Reply::Integer(0));
}

/// The first block of a language in the manual that has this in it, with another port.
fn example(language: &str, part: &str, redis: &RedisServer) -> String {
    let manual = manual();
    let blocks = manual.split("```").skip(1).step_by(2).filter_map(|block| block.strip_prefix(language));
    let block = blocks.filter(|block| block.starts_with('\n')).find(|block| block.contains(part)).expect("an example");
    block.replace("redis-cli ", &format!("redis-cli -p {} ", redis.address.port()))
}

/// What an example prints: the id of an event, at last.
fn run(program: &str, arguments: &[&str], directory: &Path) -> String {
    let output = Command::new(program).args(arguments).current_dir(directory).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
    said
}

#[test]
fn the_examples_publish() {
    let redis = RedisServer::start();
    let port = redis.address.port();
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    run("sh", &["-c", &example("sh", "FUNCTION LOAD", &redis)], here);
    let mut printed = vec![run("sh", &["-c", &example("sh", "FCALL", &redis)], here)];

    // Client libraries are not everywhere: these have what the examples use of them.
    let python = format!(
        "import subprocess\n\
         class Redis:\n\
         \x20   def fcall(self, *words):\n\
         \x20       words = ['redis-cli', '-p', '{port}', 'FCALL', *map(str, words)]\n\
         \x20       return subprocess.run(words, check=True, capture_output=True).stdout.splitlines()\n"
    );
    let node = format!(
        "import {{ execFileSync }} from 'node:child_process';\n\
         const sendCommand = async (words) =>\n\
         \x20 execFileSync('redis-cli', ['-p', '{port}', ...words]).toString().split('\\n');\n\
         export const createClient = () => ({{ connect: async () => ({{ sendCommand }}) }});\n"
    );
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    };
    write("redis.py", &python);
    write("example.py", &example("python", "fcall", &redis));
    write("node_modules/redis/index.mjs", &node);
    write("node_modules/redis/package.json", r#"{"exports": "./index.mjs"}"#);
    write("example.mjs", &example("js", "FCALL", &redis));
    printed.push(run("python3", &["example.py"], directory.path()));
    printed.push(run("node", &["example.mjs"], directory.path()));

    let ids: Vec<&str> = printed.iter().map(|said| said.trim().lines().last().unwrap()).collect();
    let mut client = redis.client();
    let Reply::Array(entries) = client.command(&[b"XRANGE", b"fanwheel:{0}:s:acct.7", b"-", b"+"]) else { panic!() };
    assert_eq!(entries.len(), 3, "{printed:?}");
    for (id, entry) in ids.iter().zip(&entries) {
        assert!(format!("{entry:?}").contains(&format!("{:?}", id.rsplit_once('-').unwrap().0.as_bytes())), "{id}");
    }
}
