//! Frames as clients send them, right and wrong in every part.

/// The key where it does not matter: no byte of it is zero, and no two are the same.
pub const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

pub const FIN: u8 = 0x80;
pub const RSV1: u8 = 0x40;
pub const RSV2: u8 = 0x20;
pub const RSV3: u8 = 0x10;

/// How long a frame says it is.
#[derive(Clone, Copy, Debug)]
enum Length {
    /// In the fewest bytes.
    Fewest(u64),
    In16(u16),
    In64(u64),
}

#[derive(Clone, Debug)]
pub struct Frame {
    first: u8,
    key: Option<[u8; 4]>,
    length: Length,
    payload: Vec<u8>,
}

impl Frame {
    pub fn new(first: u8, payload: impl AsRef<[u8]>) -> Frame {
        let payload = payload.as_ref().to_vec();
        Frame { first, key: Some(KEY), length: Length::Fewest(payload.len() as u64), payload }
    }

    /// With reserved bits.
    pub fn rsv(mut self, bits: u8) -> Frame {
        self.first |= bits;
        self
    }

    /// Not its message's last.
    pub fn not_final(mut self) -> Frame {
        self.first &= !FIN;
        self
    }

    pub fn key(mut self, key: [u8; 4]) -> Frame {
        self.key = Some(key);
        self
    }

    pub fn unmasked(mut self) -> Frame {
        self.key = None;
        self
    }

    pub fn in_16(mut self) -> Frame {
        self.length = Length::In16(self.payload.len() as u16);
        self
    }

    pub fn in_64(mut self) -> Frame {
        self.length = Length::In64(self.payload.len() as u64);
        self
    }

    /// Announces another length than it has, in the fewest bytes.
    pub fn says(mut self, length: u64) -> Frame {
        self.length = Length::Fewest(length);
        self
    }

    /// As it goes over the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let masked = if self.key.is_some() { 0x80 } else { 0 };
        let length = match self.length {
            Length::Fewest(length @ 0..126) => vec![masked | length as u8],
            Length::Fewest(length @ 126..0x1_0000) => [&[masked | 126][..], &(length as u16).to_be_bytes()].concat(),
            Length::In16(length) => [&[masked | 126][..], &length.to_be_bytes()].concat(),
            Length::Fewest(length) | Length::In64(length) => [&[masked | 127][..], &length.to_be_bytes()].concat(),
        };
        let key = self.key.unwrap_or_default();
        let payload: Vec<u8> = self.payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        let key = self.key.map_or(Vec::new(), |key| key.to_vec());
        [vec![self.first], length, key, payload].concat()
    }

    /// Its first bytes.
    pub fn cut(&self, length: usize) -> Vec<u8> {
        self.bytes()[..length].to_vec()
    }
}

/// A whole text message.
pub fn text(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(FIN | 1, payload)
}

/// The first part of a text message.
pub fn first(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(1, payload)
}

/// A part in the middle.
pub fn middle(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(0, payload)
}

/// The last part.
pub fn last(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(FIN, payload)
}

pub fn binary(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(FIN | 2, payload)
}

pub fn ping(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(FIN | 9, payload)
}

pub fn pong(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(FIN | 10, payload)
}

/// A close frame with this payload.
pub fn close_with(payload: impl AsRef<[u8]>) -> Frame {
    Frame::new(FIN | 8, payload)
}

pub fn close(code: u16, reason: &str) -> Frame {
    close_with([&code.to_be_bytes()[..], reason.as_bytes()].concat())
}

/// One after another.
pub fn all(frames: &[Frame]) -> Vec<u8> {
    frames.iter().flat_map(Frame::bytes).collect()
}
