package io.github.spotbridge.feed;

import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.v1.Event;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.SQLException;
import java.sql.Statement;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.Set;
import java.util.concurrent.locks.LockSupport;
import org.sqlite.SQLiteErrorCode;

/** The expenses and the processed events, in one SQLite file. An event is in both or in none. */
final class Ledger implements AutoCloseable {
    // The order of the columns is that of the record.
    private static final String SCHEMA = """
            CREATE TABLE IF NOT EXISTS expenses (
              ticket_number TEXT PRIMARY KEY, pnr_id TEXT NOT NULL, organization_id TEXT NOT NULL, traveler_id TEXT NOT NULL,
              currency TEXT NOT NULL, amount_milli INTEGER NOT NULL, refund_milli INTEGER NOT NULL, net_milli INTEGER NOT NULL,
              state TEXT NOT NULL, version INTEGER NOT NULL, event_id TEXT NOT NULL,
              issued INTEGER NOT NULL, voided INTEGER NOT NULL, refunded INTEGER NOT NULL,
              refund_version INTEGER NOT NULL, refund_event TEXT NOT NULL);
            CREATE TABLE IF NOT EXISTS processed (event_id TEXT PRIMARY KEY);
            """;
    private static final int DUMPED_COLUMNS = 11;

    /** How long a database that is in use is waited for. */
    private static final Duration BUSY = Duration.ofSeconds(5);

    private static final Duration BUSY_POLL = Duration.ofMillis(20);

    private final Connection db;

    private Ledger(Connection db) {
        this.db = db;
    }

    static Ledger open(String file) throws SQLException {
        Connection db = DriverManager.getConnection("jdbc:sqlite:" + file);
        try (Statement s = db.createStatement()) {
            s.executeUpdate("PRAGMA busy_timeout = " + BUSY.toMillis()); // dump runs beside a feed
            s.executeUpdate("PRAGMA synchronous = FULL"); // what was committed survives a power cut
            makeTables(s);
            db.setAutoCommit(false);
        } catch (SQLException e) {
            db.close();
            throw e;
        }
        return new Ledger(db);
    }

    /** SQLite does not wait by itself for another process that makes the file at the same moment. */
    private static void makeTables(Statement s) throws SQLException {
        for (long begin = System.nanoTime(); ; ) {
            try {
                s.execute("PRAGMA journal_mode = WAL");
                s.executeUpdate(SCHEMA);
                return;
            } catch (SQLException e) {
                if ((e.getErrorCode() & 0xff) != SQLiteErrorCode.SQLITE_BUSY.code || System.nanoTime() - begin > BUSY.toNanos()) {
                    throw e;
                }
            }
            LockSupport.parkNanos(BUSY_POLL.toNanos());
        }
    }

    boolean hasProcessed(String eventId) throws SQLException {
        try (PreparedStatement s = db.prepareStatement("SELECT 1 FROM processed WHERE event_id = ?")) {
            s.setString(1, eventId);
            try (ResultSet row = s.executeQuery()) {
                return row.next();
            }
        } finally {
            db.rollback(); // ends the read
        }
    }

    /** Applies an event to the tickets that it touches, and notes it as processed, in one transaction. */
    void process(Event event, Set<String> tickets, PnrData payload) throws SQLException {
        try {
            try (PreparedStatement s = db.prepareStatement("INSERT INTO processed VALUES (?)")) {
                s.setString(1, event.getId());
                s.executeUpdate();
            }
            for (String ticket : tickets) {
                write(read(ticket).after(event, payload));
            }
            db.commit();
        } catch (SQLException | RuntimeException e) {
            db.rollback();
            throw e;
        }
    }

    private Expense read(String ticket) throws SQLException {
        try (PreparedStatement s = db.prepareStatement("SELECT * FROM expenses WHERE ticket_number = ?")) {
            s.setString(1, ticket);
            try (ResultSet r = s.executeQuery()) {
                if (!r.next()) {
                    return Expense.ofNewTicket(ticket);
                }
                return new Expense(
                        r.getString(1), r.getString(2), r.getString(3), r.getString(4), r.getString(5),
                        r.getLong(6), r.getLong(7), r.getLong(8), r.getString(9), r.getLong(10), r.getString(11),
                        r.getBoolean(12), r.getBoolean(13), r.getBoolean(14), r.getLong(15), r.getString(16));
            }
        }
    }

    private void write(Expense e) throws SQLException {
        Object[] values = {
            e.ticketNumber(), e.pnrId(), e.organizationId(), e.travelerId(), e.currency(),
            e.amountMilli(), e.refundMilli(), e.netMilli(), e.state(), e.version(), e.eventId(),
            e.issued(), e.voided(), e.refunded(), e.refundVersion(), e.refundEvent()
        };
        String sql = "INSERT OR REPLACE INTO expenses VALUES (?" + ", ?".repeat(values.length - 1) + ")";
        try (PreparedStatement s = db.prepareStatement(sql)) {
            for (int i = 0; i < values.length; i++) {
                s.setObject(i + 1, values[i]);
            }
            s.executeUpdate();
        }
    }

    /** The table, a line for each ticket. */
    List<String> dump() throws SQLException {
        return lines("SELECT * FROM expenses ORDER BY ticket_number", DUMPED_COLUMNS);
    }

    List<String> processed() throws SQLException {
        return lines("SELECT event_id FROM processed ORDER BY event_id", 1);
    }

    private List<String> lines(String query, int columns) throws SQLException {
        List<String> lines = new ArrayList<>();
        try (Statement s = db.createStatement(); ResultSet row = s.executeQuery(query)) {
            while (row.next()) {
                List<String> line = new ArrayList<>();
                for (int i = 1; i <= columns; i++) {
                    line.add(row.getString(i));
                }
                lines.add(String.join("\t", line));
            }
        } finally {
            db.rollback();
        }
        return lines;
    }

    @Override
    public void close() throws SQLException {
        db.close();
    }
}
