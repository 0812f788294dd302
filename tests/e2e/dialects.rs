//! Every dialect, to the byte: what each verdict looks like on the wire, and what each system promises beside that.

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
