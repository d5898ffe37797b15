//! How a client can break the protocol, each way with its section of RFC 6455 and the code it is told.

use crate::frame::ws::CloseCode;

/// A rule that a client broke. The text stands in the close frame, so that whoever writes clients reads it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Violation {
    /// No extension was negotiated that would give them a meaning.
    #[error("a reserved bit is set")]
    ReservedBits,
    /// 3 to 7 and 11 to 15.
    #[error("the opcode is reserved")]
    ReservedOpcode,
    /// What comes from a client is masked.
    #[error("the frame is not masked")]
    Unmasked,
    /// A length that fits into fewer bytes.
    #[error("the length is not in the fewest bytes")]
    LengthNotMinimal,
    /// A length of 64 bits whose most significant bit is set.
    #[error("the length is over 63 bits")]
    LengthTopBit,
    /// A continuation where no message has begun.
    #[error("nothing is there to continue")]
    NothingToContinue,
    /// A new message before the fragments of the last one are complete.
    #[error("the message before is not complete")]
    MessageInsideMessage,
    /// A control frame that is not its message's last.
    #[error("a control frame is fragmented")]
    FragmentedControl,
    /// A control frame of more than 125 bytes.
    #[error("a control frame is over 125 bytes")]
    ControlTooLong,
    /// A close frame of one byte.
    #[error("a close code has two bytes")]
    CloseCodeCut,
    /// A code that may not stand in a close frame.
    #[error("this code is not for close frames")]
    CloseCodeInvalid,
    /// A reason that is not UTF-8.
    #[error("the reason is not UTF-8")]
    CloseReasonNotUtf8,
    /// A text that is not UTF-8.
    #[error("the text is not UTF-8")]
    TextNotUtf8,
    /// A binary message, which the protocol knows, and Fanwheel does not.
    #[error("only text is taken")]
    Binary,
    /// A message over the limit.
    #[error("the message is over the limit")]
    TooBig,
}

impl Violation {
    /// All of them.
    pub const ALL: [Violation; 15] = [
        Violation::ReservedBits,
        Violation::ReservedOpcode,
        Violation::Unmasked,
        Violation::LengthNotMinimal,
        Violation::LengthTopBit,
        Violation::NothingToContinue,
        Violation::MessageInsideMessage,
        Violation::FragmentedControl,
        Violation::ControlTooLong,
        Violation::CloseCodeCut,
        Violation::CloseCodeInvalid,
        Violation::CloseReasonNotUtf8,
        Violation::TextNotUtf8,
        Violation::Binary,
        Violation::TooBig,
    ];

    /// The code in the close frame.
    #[must_use]
    pub fn code(self) -> CloseCode {
        match self {
            Violation::Binary => CloseCode::UNSUPPORTED,
            Violation::TextNotUtf8 | Violation::CloseReasonNotUtf8 => CloseCode::INVALID_DATA,
            Violation::TooBig => CloseCode::TOO_BIG,
            _ => CloseCode::PROTOCOL_ERROR,
        }
    }

    /// The section of RFC 6455 that has the rule.
    #[must_use]
    pub fn section(self) -> &'static str {
        match self {
            Violation::Unmasked => "5.1",
            Violation::ReservedBits
            | Violation::ReservedOpcode
            | Violation::LengthNotMinimal
            | Violation::LengthTopBit => "5.2",
            Violation::NothingToContinue | Violation::MessageInsideMessage => "5.4",
            Violation::FragmentedControl | Violation::ControlTooLong => "5.5",
            Violation::CloseCodeCut | Violation::CloseReasonNotUtf8 => "5.5.1",
            Violation::CloseCodeInvalid => "7.4",
            Violation::Binary | Violation::TooBig => "7.4.1",
            Violation::TextNotUtf8 => "8.1",
        }
    }

    /// What stands in the close frame.
    #[must_use]
    pub fn reason(self) -> String {
        format!("{self} (RFC 6455, {})", self.section())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::frame::ws::CLOSE_REASON_MAX;

    #[test]
    fn every_reason_fits_into_a_close_frame_and_is_told_apart() {
        let reasons: std::collections::BTreeSet<String> = Violation::ALL.into_iter().map(Violation::reason).collect();
        assert_eq!(reasons.len(), Violation::ALL.len());
        assert!(reasons.iter().all(|reason| reason.len() <= CLOSE_REASON_MAX));
        assert!(Violation::ALL.into_iter().all(|one| CloseCode::parse(one.code().number()).is_some()));
    }
}
