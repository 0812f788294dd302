//! Every dialect, byte for byte: the response for each verdict, and the specifics of each system.

#[path = "dialects/auxot.rs"]
mod auxot;
#[path = "dialects/cases.rs"]
mod cases;
#[path = "dialects/graph8.rs"]
mod graph8;
#[path = "dialects/order.rs"]
mod order;
#[path = "dialects/page.rs"]
mod page;
#[path = "dialects/permissions.rs"]
mod permissions;
#[path = "dialects/records.rs"]
mod records;
#[path = "dialects/table.rs"]
mod table;
#[path = "dialects/transport.rs"]
mod transport;
