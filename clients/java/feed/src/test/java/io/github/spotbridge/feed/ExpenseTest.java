package io.github.spotbridge.feed;

import static io.github.spotbridge.feed.Events.booking;
import static io.github.spotbridge.feed.Events.event;
import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.spotbridge.payload.v1.FareAmount;
import io.github.spotbridge.payload.v1.Money;
import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.v1.Event;
import java.util.ArrayList;
import java.util.Collections;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.Set;
import java.util.TreeMap;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.CsvSource;

class ExpenseTest {
    private static final List<String> T1 = List.of("T1");
    private static final List<String> T2 = List.of("T2");
    private static final List<String> NONE = List.of();

    private static final Event ISSUED = event("e2", "BOOKING_TICKETED", 2, T1, NONE, NONE);
    private static final Event VOIDED = event("e4", "TICKET_VOIDED", 4, NONE, T1, NONE);
    private static final Event REFUNDED = event("e5", "TICKET_REFUNDED", 5, NONE, NONE, T1);

    private static Map<String, Expense> table(List<Event> events) {
        Map<String, Expense> table = new TreeMap<>();
        for (Event event : events) {
            for (String ticket : Expense.ticketsOf(event)) {
                table.put(ticket, table.getOrDefault(ticket, Expense.ofNewTicket(ticket)).after(event, event.getPnrV3()));
            }
        }
        return table;
    }

    private static Expense expense(String ticket, Event... events) {
        return table(List.of(events)).get(ticket);
    }

    @Test
    void anIssuedTicketIsAnExpense() {
        assertEquals(
                new Expense("T1", "P1", "O2", "of-T1", "EUR", 102_000, 0, 102_000, "ISSUED", 2, "e2", true, false, false, 0, ""),
                expense("T1", ISSUED));
    }

    @Test
    void aVoidedTicketCostsNothing() {
        assertEquals(
                new Expense("T1", "P1", "O4", "of-T1", "EUR", 104_000, 0, 0, "VOIDED", 4, "e4", true, true, false, 0, ""),
                expense("T1", ISSUED, VOIDED));
    }

    @Test
    void aRefundReducesTheExpense() {
        assertEquals(
                new Expense("T1", "P1", "O5", "of-T1", "EUR", 105_000, 5_000, 100_000, "REFUNDED", 5, "e5", true, false, true, 5, "e5"),
                expense("T1", ISSUED, REFUNDED));
    }

    @Test
    void anExchangeRefundsOneTicketAndIssuesAnother() {
        Event exchange = event("e3", "BOOKING_TICKETED", 3, T2, NONE, T1);
        Map<String, Expense> table = table(List.of(ISSUED, exchange));
        assertEquals("REFUNDED", table.get("T1").state());
        assertEquals(100_000, table.get("T1").netMilli());
        assertEquals("ISSUED", table.get("T2").state());
        assertEquals("of-T2", table.get("T2").travelerId());
        assertEquals(103_000, table.get("T2").netMilli());
    }

    @Test
    void everyOrderAndEveryRepeatGivesTheSameTable() {
        List<Event> events = List.of(
                ISSUED, VOIDED, REFUNDED,
                event("e3", "BOOKING_TICKETED", 3, T2, NONE, T1),
                event("e6", "TICKET_REFUNDED", 5, NONE, NONE, T1, PnrData.getDefaultInstance()), // the same version: the id decides
                event("e1", "TICKET_REFUNDED", 1, NONE, NONE, T2),
                event("e0", "BOOKING_TICKETED", 0, T1, NONE, NONE)); // no version
        Map<String, Expense> expected = table(events);
        assertEquals("e6", expected.get("T1").refundEvent());
        Random random = new Random(1);
        for (int i = 0; i < 5_000; i++) {
            List<Event> deliveries = new ArrayList<>(events);
            for (int repeats = random.nextInt(5); repeats > 0; repeats--) {
                deliveries.add(events.get(random.nextInt(events.size())));
            }
            Collections.shuffle(deliveries, random);
            assertEquals(expected, table(deliveries), () -> deliveries.stream().map(Event::getId).toList().toString());
        }
    }

    @Test
    void otherEventsDoNotCount() {
        assertEquals(Set.of("T1"), Expense.ticketsOf(ISSUED));
        assertTrue(Expense.ticketsOf(ISSUED.toBuilder().setOperation("BOOKING_UPDATED").build()).isEmpty());
        assertTrue(Expense.ticketsOf(ISSUED.toBuilder().setEventType("TRIP_DETAILS_V3").build()).isEmpty());
        assertTrue(Expense.ticketsOf(ISSUED.toBuilder().clearOperationSummary().build()).isEmpty());
    }

    @Test
    void whatIsMissingIsEmpty() {
        Expense expense = expense("T1", event("e1", "BOOKING_TICKETED", 0, T1, NONE, NONE, PnrData.getDefaultInstance()));
        assertEquals(new Expense("T1", "P1", "O0", "", "", 0, 0, 0, "ISSUED", 0, "e1", true, false, false, 0, ""), expense);
    }

    @Test
    void theTravelerIsTheOneWhoHasTheTicketElseTheFirst() {
        assertEquals("of-T1", expense("T1", event("e1", "BOOKING_TICKETED", 1, T1, NONE, NONE, booking(1, "T2", "T1"))).travelerId());
        assertEquals("first", expense("T1", event("e1", "BOOKING_TICKETED", 1, T1, NONE, NONE, booking(1, "T2"))).travelerId());
    }

    @Test
    void aRefundWithoutAnAmountIsTheFare() {
        PnrData.Builder booking = booking(3, "T1").toBuilder();
        booking.getAirPnrBuilder().getTravelerInfosBuilder(0).getTicketsBuilder(0).getRefundInfoBuilder().clearRefundAmount();
        Expense expense = expense("T1", event("e3", "TICKET_REFUNDED", 3, NONE, NONE, T1, booking.build()));
        assertEquals(103_000, expense.refundMilli());
        assertEquals(0, expense.netMilli());
    }

    @Test
    void aRefundIsBaseAndTaxEachRoundedAndMissingOnesAreNothing() {
        FareAmount both = FareAmount.newBuilder().setBase(money(1.0005)).setTax(money(1.0005)).build();
        assertEquals(2_002, refund(both)); // 2.001 if they were added first
        assertEquals(1_001, refund(FareAmount.newBuilder().setTax(money(1.0005)).build()));
        assertEquals(0, refund(FareAmount.getDefaultInstance()));
    }

    private static long refund(FareAmount amount) {
        PnrData.Builder booking = booking(3, "T1").toBuilder();
        booking.getAirPnrBuilder().getTravelerInfosBuilder(0).getTicketsBuilder(0).getRefundInfoBuilder().setRefundAmount(amount);
        return expense("T1", event("e3", "TICKET_REFUNDED", 3, NONE, NONE, T1, booking.build())).refundMilli();
    }

    private static Money money(double amount) {
        return Money.newBuilder().setAmount(amount).build();
    }

    @ParameterizedTest
    @CsvSource({"1663.58, 1663580", "0, 0", "0.0005, 1", "0.00049, 0", "-1.5, -1500", "-0.0005, 0", "1e12, 1000000000000000", "9.63, 9630"})
    void amountsAreKeptInThousandths(double amount, long milli) {
        assertEquals(milli, Expense.milli(money(amount)));
    }

    @Test
    void idsAreComparedAsBytes() {
        Event small = event("e\uFFFD", "BOOKING_TICKETED", 1, T1, NONE, NONE);
        Event large = event("e\uD83D\uDE00", "BOOKING_TICKETED", 1, T1, NONE, NONE); // less in UTF-16, greater in UTF-8
        assertEquals(large.getId(), expense("T1", large, small).eventId());
        assertFalse(large.getId().compareTo(small.getId()) > 0);
    }
}
