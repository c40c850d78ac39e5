//! The expenses in `SQLite`. An event's entry and its id are committed together, so an event is booked once or not at all.

use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, Instant};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Result, Row, TransactionBehavior, named_params, params};

use crate::expense::{Booking, Expense, counts, touched};
use crate::proto::spotbridge::v1::Event;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS expenses (
  ticket_number TEXT PRIMARY KEY, pnr_id TEXT NOT NULL, organization_id TEXT NOT NULL, traveler_id TEXT NOT NULL,
  currency TEXT NOT NULL, amount_milli INTEGER NOT NULL, refund_milli INTEGER NOT NULL, net_milli INTEGER NOT NULL,
  state TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL,
  issued INTEGER NOT NULL, voided INTEGER NOT NULL, refunded INTEGER NOT NULL,
  refund_version INTEGER NOT NULL, refund_event TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS processed (event_id TEXT PRIMARY KEY);";

/// How long an event waits for a database that is in use; one that waits longer comes again.
const BUSY: Duration = Duration::from_secs(1);
/// How long is waited for others who make the file, and how often is tried.
const MAKE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);

/// The file with the expenses and the ids of processed events.
#[derive(Debug)]
pub struct Store(Connection);

impl Store {
    /// Opens the file, and makes it when there is none.
    ///
    /// # Errors
    /// The file cannot be made or read, or is no database.
    pub fn open(file: impl AsRef<Path>) -> Result<Self> {
        let db = Connection::open(file)?;
        db.busy_timeout(BUSY)?;
        db.pragma_update(None, "synchronous", "FULL")?; // what was acknowledged survives a power cut
        let begin = Instant::now();
        loop {
            // SQLite does not wait by itself for another process that makes the file at the same moment.
            let made = db.pragma_update(None, "journal_mode", "WAL").and_then(|()| db.execute_batch(SCHEMA));
            match made {
                Err(e) if e.sqlite_error_code() == Some(ErrorCode::DatabaseBusy) && begin.elapsed() < MAKE => {
                    sleep(POLL);
                }
                Err(e) => return Err(e),
                Ok(()) => return Ok(Self(db)),
            }
        }
    }

    /// Whether the event was processed before.
    ///
    /// # Errors
    /// The database fails.
    pub fn has(&self, event_id: &str) -> Result<bool> {
        self.0.prepare_cached("SELECT 1 FROM processed WHERE event_id = ?1")?.exists([event_id])
    }

    /// Books events in one transaction, and says how many of them were new.
    ///
    /// # Errors
    /// The database fails; nothing was changed then.
    pub fn book<'a>(&mut self, events: impl IntoIterator<Item = (&'a Event, &'a Booking)>) -> Result<usize> {
        let tx = self.0.transaction_with_behavior(TransactionBehavior::Immediate)?;
        let mut new = 0;
        for (event, booking) in events {
            if tx.prepare_cached("INSERT OR IGNORE INTO processed VALUES (?1)")?.execute([&event.id])? == 0 {
                continue;
            }
            new += 1;
            if !counts(event) {
                continue;
            }
            for number in touched(event) {
                let row = tx
                    .prepare_cached("SELECT * FROM expenses WHERE ticket_number = ?1")?
                    .query_row([number], read)
                    .optional()?;
                let mut expense = row.unwrap_or_else(|| Expense::new(number));
                expense.apply(event, booking);
                write(&tx, &expense)?;
            }
        }
        tx.commit()?;
        Ok(new)
    }

    /// All expenses, by ticket number.
    ///
    /// # Errors
    /// The database fails.
    pub fn expenses(&self) -> Result<Vec<Expense>> {
        let mut rows = self.0.prepare("SELECT * FROM expenses ORDER BY ticket_number")?;
        rows.query_map(params![], read)?.collect()
    }

    /// The ids of all processed events, in order.
    ///
    /// # Errors
    /// The database fails.
    pub fn processed(&self) -> Result<Vec<String>> {
        let mut rows = self.0.prepare("SELECT event_id FROM processed ORDER BY event_id")?;
        rows.query_map(params![], |row| row.get(0))?.collect()
    }
}

fn read(row: &Row) -> Result<Expense> {
    Ok(Expense {
        ticket_number: row.get("ticket_number")?,
        pnr_id: row.get("pnr_id")?,
        organization_id: row.get("organization_id")?,
        traveler_id: row.get("traveler_id")?,
        currency: row.get("currency")?,
        amount_milli: row.get("amount_milli")?,
        refund_milli: row.get("refund_milli")?,
        version: row.get("version")?,
        event_id: row.get("event_id")?,
        issued: row.get("issued")?,
        voided: row.get("voided")?,
        refunded: row.get("refunded")?,
        refund_version: row.get("refund_version")?,
        refund_event: row.get("refund_event")?,
    })
}

fn write(db: &Connection, expense: &Expense) -> Result<()> {
    let mut row = db.prepare_cached(
        "REPLACE INTO expenses VALUES (:ticket_number, :pnr_id, :organization_id, :traveler_id, :currency, :amount_milli,
         :refund_milli, :net_milli, :state, :version, :event_id, :issued, :voided, :refunded, :refund_version, :refund_event)",
    )?;
    row.execute(named_params! {
        ":ticket_number": expense.ticket_number,
        ":pnr_id": expense.pnr_id,
        ":organization_id": expense.organization_id,
        ":traveler_id": expense.traveler_id,
        ":currency": expense.currency,
        ":amount_milli": expense.amount_milli,
        ":refund_milli": expense.refund_milli,
        ":net_milli": expense.net_milli(),
        ":state": expense.state(),
        ":version": expense.version,
        ":event_id": expense.event_id,
        ":issued": expense.issued,
        ":voided": expense.voided,
        ":refunded": expense.refunded,
        ":refund_version": expense.refund_version,
        ":refund_event": expense.refund_event,
    })?;
    Ok(())
}
