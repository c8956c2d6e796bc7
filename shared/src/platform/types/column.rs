//! Defines the closed sets of a definition, whose names are columns of the session database.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use super::NameError;

macro_rules! closed_set {
    ($(#[$doc:meta])* $name:ident: $what:literal =
     $($(#[$vdoc:meta])* $variant:ident $text:literal),+ $(,)?) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum $name { $($(#[$vdoc])* $variant),+ }

        impl $name {
            /// All values in order.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// Name in definitions, columns and answers.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result { f.write_str(self.as_str()) }
        }

        impl FromStr for $name {
            type Err = NameError;

            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::ALL.iter().copied().find(|one| one.as_str() == text).ok_or(NameError {
                    what: $what,
                    expected: concat!("one of:", $(" ", $text),+),
                })
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.serialize_str(self.as_str())
            }
        }
    };
}

closed_set! {
    /// Status of a session.
    SessionStatus: "a session status" =
    /// Announced; nothing has happened yet.
    Ready "ready",
    /// Broadcasting.
    Live "live",
    /// Connected before, but not broadcasting now.
    Idle "idle",
    /// The broadcast has ended.
    Ended "ended",
    /// The room is closed.
    Stopped "stopped",
    /// The session failed.
    Error "error",
}

closed_set! {
    /// Column of a session that a definition may set. Each has its own version guard.
    SessionColumn: "a session column" =
    /// Text.
    Title "title",
    /// Text.
    StreamerId "streamer_id",
    /// Text.
    AppId "app_id",
    /// Non-negative integer.
    ViewerCount "viewer_count",
    /// Non-negative integer.
    PeakViewers "peak_viewers",
    /// Seconds, may be fractional.
    DurationSeconds "duration_seconds",
    /// Text.
    ErrorCode "error_code",
    /// Text.
    ErrorMessage "error_message",
    /// Time.
    StartedAt "started_at",
    /// Time.
    EndedAt "ended_at",
}

closed_set! {
    /// State of a recording.
    RecordingState: "a recording state" =
    /// Known.
    Created "created",
    /// In progress.
    Recording "recording",
    /// Playable.
    Ready "ready",
    /// Failed for good.
    Failed "failed",
}

closed_set! {
    /// Column of a recording that a definition may set.
    RecordingColumn: "a recording column" =
    /// Text.
    Url "url",
    /// Seconds, may be fractional.
    DurationSeconds "duration_seconds",
    /// Bytes.
    SizeBytes "size_bytes",
}

closed_set! {
    /// State of a content.
    ContentState: "a content state" =
    /// In the catalogue.
    Active "active",
    /// Removed from the catalogue.
    Removed "removed",
}

closed_set! {
    /// Column of a content that a definition may set.
    ContentColumn: "a content column" =
    /// Text.
    Title "title",
    /// Text.
    ContentType "content_type",
    /// Any JSON.
    Data "data",
}

closed_set! {
    /// Column of a job that a definition may set. An explicit null clears it.
    JobColumn: "a job column" =
    /// Number as the sender counts it.
    Progress "progress",
    /// Text.
    CurrentStep "current_step",
    /// Text.
    VideoUrl "video_url",
    /// Text; other values are kept as JSON text.
    Error "error",
    /// Non-negative integer.
    RetryCount "retry_count",
    /// Any JSON. Of an object, the members that have no column.
    Data "data",
}

closed_set! {
    /// Column of a chat message that a definition may set.
    ChatColumn: "a chat column" =
    /// Text.
    UserId "user_id",
    /// Text.
    UserName "user_name",
    /// Text; other values are kept as JSON text.
    Message "message",
    /// Time; without it, the time of the event.
    SentAt "sent_at",
}
