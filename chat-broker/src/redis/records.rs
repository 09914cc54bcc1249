//! The table that all nodes share.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use redis::Pipeline;

use super::store::Store;
use crate::error::BrokerError;
use crate::records::{Record, Records};

/// Records in one page: 2 MiB at most.
const PAGE: usize = 512;

/// What `read_records.lua` returns: version, floor, whether it begins anew, records.
type Reply = (u64, u64, bool, Vec<Row>);

/// Key, version, value, how long it is still there in milliseconds.
type Row = (String, u64, Option<Vec<u8>>, u64);

impl Store {
    /// See [`Broker::set_record`](crate::Broker::set_record).
    pub(super) async fn set_record(
        &self,
        key: &str,
        value: Option<Bytes>,
        expires_in: Duration,
    ) -> Result<(), BrokerError> {
        Record::check(key, value.as_ref())?;
        let lifetime = Record::lifetime(value.as_ref(), expires_in);
        let names = &self.shared.names;
        let mut commands = Pipeline::with_capacity(1);
        let call = self.shared.scripts.set_record.call(&mut commands, &names.record_keys());
        call.arg(names.records()).arg(key).arg(u8::from(value.is_some()));
        call.arg(&value.unwrap_or_default()[..]).arg(lifetime.as_millis() as u64);
        call.arg(Records::MAX);
        let (has_room,): (bool,) = self.in_time(self.query(&commands)).await?;
        if has_room { Ok(()) } else { Err(Records::full()) }
    }

    /// See [`Broker::records`](crate::Broker::records). What changes while one page after the
    /// other is read stands in a later one.
    pub(super) async fn records(&self, after: u64) -> Result<Records, BrokerError> {
        let read = async {
            let (mut after, mut before) = (after, (0, 0));
            let (mut complete, mut found) = (false, HashMap::new());
            loop {
                let (version, floor, is_first_of_all, page) =
                    self.page_of_records(after, before).await?;
                if is_first_of_all {
                    found.clear();
                    complete = true;
                }
                let is_last = page.len() < PAGE;
                for (key, version, value, left) in page {
                    after = version;
                    found.insert(key, (version, value, left));
                }
                if is_last {
                    return Ok(Records { version, complete, records: in_order(found, complete) });
                }
                before = (version, floor);
            }
        };
        self.in_time(read).await
    }

    /// Reads on after the page that came with this version and floor.
    async fn page_of_records(
        &self,
        after: u64,
        (version, floor): (u64, u64),
    ) -> Result<Reply, BrokerError> {
        let keys = self.shared.names.record_keys();
        let mut commands = Pipeline::with_capacity(1);
        let call = self.shared.scripts.read_records.call(&mut commands, &keys);
        call.arg(after).arg(PAGE).arg(version).arg(floor);
        let (reply,) = self.query(&commands).await?;
        Ok(reply)
    }
}

/// By version; of a whole table without what is not there any more.
fn in_order(found: HashMap<String, (u64, Option<Vec<u8>>, u64)>, complete: bool) -> Vec<Record> {
    let mut found: Vec<_> = found.into_iter().collect();
    found.retain(|(_, (_, value, _))| !complete || value.is_some());
    found.sort_unstable_by_key(|(_, (version, ..))| *version);
    let record = |(key, (_, value, left)): (_, (_, Option<_>, _))| Record {
        key,
        value: value.map(Bytes::from),
        expires_in: Duration::from_millis(left),
    };
    found.into_iter().map(record).collect()
}
