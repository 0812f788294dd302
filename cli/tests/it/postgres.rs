//! Several servers on one PostgreSQL database, and what happens to that.

#[cfg(test)]
mod cut_off;
#[cfg(test)]
mod outage;
#[cfg(test)]
mod replicas;
#[cfg(test)]
mod start;
#[cfg(test)]
mod tls;
