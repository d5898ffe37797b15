//! Sources: where events come from and publishes go to.
//!
//! A source feeds each shard's inbox with [`Inbound`](crate::engine::Inbound) messages, in order,
//! takes events through [`Publish`](crate::engine::Publish), and is told through
//! [`Interest`](crate::engine::Interest) which topics a shard wants. It knows nothing of clients.
//!
//! | | order | history | when the node stops |
//! |---|---|---|---|
//! | [`memory`] | one sequencer for all shards | in memory, as classes say | gone |
//! | [`redis`] | Redis itself | in Redis, as classes say | other nodes go on |

pub mod memory;
pub mod redis;
