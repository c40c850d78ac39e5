package io.github.spotbridge.feed;

import static io.github.spotbridge.feed.Events.event;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertThrows;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.spotbridge.v1.Event;
import java.nio.file.Path;
import java.sql.Connection;
import java.sql.DriverManager;
import java.sql.SQLException;
import java.sql.Statement;
import java.util.Collections;
import java.util.List;
import java.util.Set;
import java.util.concurrent.Callable;
import java.util.concurrent.CyclicBarrier;
import java.util.concurrent.ExecutorService;
import java.util.concurrent.Executors;
import java.util.concurrent.Future;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.api.io.TempDir;

class LedgerTest {
    private static final Event ISSUED = event("e1", "BOOKING_TICKETED", 2, List.of("T2", "T1"), List.of(), List.of());
    private static final Set<String> BOTH = Expense.ticketsOf(ISSUED);

    @TempDir
    private Path folder;

    private String file() {
        return folder.resolve("expenses.db").toString();
    }

    @Test
    void whatWasProcessedIsThereForTheNextProgram() throws SQLException {
        try (Ledger ledger = Ledger.open(file())) {
            assertFalse(ledger.hasProcessed("e1"));
            ledger.process(ISSUED, BOTH, ISSUED.getPnrV3());
        }
        try (Ledger ledger = Ledger.open(file())) {
            assertTrue(ledger.hasProcessed("e1"));
            assertEquals(List.of("e1"), ledger.processed());
            assertEquals(
                    List.of("T1\tP1\tO2\tof-T1\tEUR\t102000\t0\t102000\tISSUED\t2\te1",
                            "T2\tP1\tO2\tof-T2\tEUR\t102000\t0\t102000\tISSUED\t2\te1"),
                    ledger.dump());
            Event refund = event("e2", "TICKET_REFUNDED", 3, List.of(), List.of(), List.of("T1"));
            ledger.process(refund, Set.of("T1"), refund.getPnrV3());
            assertEquals("T1\tP1\tO3\tof-T1\tEUR\t103000\t3000\t100000\tREFUNDED\t3\te2", ledger.dump().get(0));
        }
    }

    @Test
    void anEventIsInTheTableOnceOrNotAtAll() throws SQLException {
        try (Ledger ledger = Ledger.open(file())) {
            try (Connection db = DriverManager.getConnection("jdbc:sqlite:" + file()); Statement s = db.createStatement()) {
                s.executeUpdate("CREATE TRIGGER full BEFORE INSERT ON expenses WHEN NEW.ticket_number = 'T1' "
                        + "BEGIN SELECT RAISE(ABORT, 'no room'); END");
                assertThrows(SQLException.class, () -> ledger.process(ISSUED, BOTH, ISSUED.getPnrV3())); // after T2 was written
                assertEquals(List.of(), ledger.dump());
                assertFalse(ledger.hasProcessed("e1"));
                s.executeUpdate("DROP TRIGGER full");
            }
            ledger.process(ISSUED, BOTH, ISSUED.getPnrV3());
            assertThrows(SQLException.class, () -> ledger.process(ISSUED, BOTH, ISSUED.getPnrV3()));
            assertEquals(2, ledger.dump().size());
        }
    }

    @Test
    void theTableCanBeReadWhileItIsWritten() throws SQLException {
        try (Ledger writer = Ledger.open(file()); Ledger reader = Ledger.open(file())) {
            writer.process(ISSUED, BOTH, ISSUED.getPnrV3());
            assertEquals(2, reader.dump().size());
            Event other = event("e9", "TICKET_VOIDED", 3, List.of(), List.of("T1"), List.of());
            writer.process(other, Set.of("T1"), other.getPnrV3());
            assertEquals(List.of("e1", "e9"), reader.processed());
        }
    }

    @Test
    void severalMayMakeTheFileAtTheSameMoment() throws Exception {
        int openers = 4;
        ExecutorService threads = Executors.newFixedThreadPool(openers);
        try {
            for (int round = 0; round < 50; round++) {
                String file = folder.resolve("expenses" + round + ".db").toString();
                CyclicBarrier start = new CyclicBarrier(openers);
                Callable<Void> open = () -> {
                    start.await();
                    Ledger.open(file).close();
                    return null;
                };
                for (Future<Void> opened : threads.invokeAll(Collections.nCopies(openers, open))) {
                    opened.get();
                }
            }
        } finally {
            threads.shutdownNow();
        }
    }

    @Test
    void itHasAWriteAheadLog() throws SQLException {
        Ledger.open(file()).close();
        try (Connection db = DriverManager.getConnection("jdbc:sqlite:" + file()); Statement s = db.createStatement()) {
            assertEquals("wal", s.executeQuery("PRAGMA journal_mode").getString(1));
        }
    }
}
