//! What a status of the bridge means: try again, or stop.

use std::collections::HashMap;

use tonic::{Code, Status};
use tonic_types::StatusExt;

/// An answer after which trying again would not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code:?} {reason}: {message}")]
pub struct Refusal {
    /// The status code.
    pub code: Code,
    /// The reason of `google.rpc.ErrorInfo`, for example `GROUP_NOT_FOUND`; empty when the answer is not the bridge's.
    pub reason: String,
    /// What the reason is about, for example `field` or `earliest_cursor`.
    pub metadata: HashMap<String, String>,
    /// For people; never match on it.
    pub message: String,
}

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        let info = status.get_details_error_info();
        let (reason, metadata) = info.map(|info| (info.reason, info.metadata)).unwrap_or_default();
        Self { code: status.code(), reason, metadata, message: status.message().to_owned() }
    }
}

/// Whether to reconnect after this status. tonic reports broken connections with one of these codes, too.
#[must_use]
pub fn is_temporary(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::ResourceExhausted
            | Code::DeadlineExceeded
            | Code::Cancelled
            | Code::Internal
            | Code::Unknown
            | Code::Aborted
    )
}

/// What a notice says of a status: its code and reason, or the text of one that is not the bridge's.
#[must_use]
pub fn describe(status: &Status) -> String {
    let reason = status.get_details_error_info().map(|info| info.reason);
    match reason {
        Some(reason) => format!("{:?} {reason}", status.code()),
        None => format!("{:?}: {}", status.code(), status.message()),
    }
}
