package io.github.spotbridge.feed;

import io.github.spotbridge.payload.v1.FareAmount;
import io.github.spotbridge.payload.v1.Money;
import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.payload.v1.Ticket;
import io.github.spotbridge.payload.v1.TravelerInfo;
import io.github.spotbridge.v1.Event;
import io.github.spotbridge.v1.OperationSummary;
import java.nio.charset.StandardCharsets;
import java.util.Arrays;
import java.util.LinkedHashSet;
import java.util.Optional;
import java.util.Set;

/** The row of a ticket, and the rule by which an event changes it: the order of the events makes no difference. */
record Expense(
        String ticketNumber, String pnrId, String organizationId, String travelerId, String currency,
        long amountMilli, long refundMilli, long netMilli, String state, long version, String eventId,
        boolean issued, boolean voided, boolean refunded, long refundVersion, String refundEvent) {

    private static final Set<String> OPERATIONS = Set.of("BOOKING_TICKETED", "TICKET_VOIDED", "TICKET_REFUNDED");

    static Expense ofNewTicket(String ticketNumber) {
        return new Expense(ticketNumber, "", "", "", "", 0, 0, 0, "", 0, "", false, false, false, 0, "");
    }

    /** The tickets that an event touches; none when it is no event of this feed. */
    static Set<String> ticketsOf(Event event) {
        Set<String> tickets = new LinkedHashSet<>();
        if (event.getEventType().equals("PNR_V3") && OPERATIONS.contains(event.getOperation())) {
            OperationSummary summary = event.getOperationSummary();
            tickets.addAll(summary.getTicketsIssuedList());
            tickets.addAll(summary.getTicketsVoidedList());
            tickets.addAll(summary.getTicketsRefundedList());
        }
        return tickets;
    }

    /** This row after an event that touches it. The payload is apart, since that of a large event does not come with it. */
    Expense after(Event event, PnrData payload) {
        OperationSummary summary = event.getOperationSummary();
        boolean refunds = summary.getTicketsRefundedList().contains(ticketNumber);
        boolean isIssued = issued || summary.getTicketsIssuedList().contains(ticketNumber);
        boolean isVoided = voided || summary.getTicketsVoidedList().contains(ticketNumber);
        boolean isRefunded = refunded || refunds;
        long eventVersion = event.getEntity().getVersion(); // 0 when there is none

        Expense latest = isAfter(eventVersion, event.getId(), version, eventId) ? showing(event, payload) : this;
        boolean newerRefund = refunds && isAfter(eventVersion, event.getId(), refundVersion, refundEvent);
        long refund = newerRefund ? refundMilli(payload) : refundMilli;

        return new Expense(
                ticketNumber, latest.pnrId, latest.organizationId, latest.travelerId, latest.currency,
                latest.amountMilli, refund, isVoided ? 0 : latest.amountMilli - refund,
                isVoided ? "VOIDED" : isRefunded ? "REFUNDED" : "ISSUED", latest.version, latest.eventId,
                isIssued, isVoided, isRefunded,
                newerRefund ? eventVersion : refundVersion, newerRefund ? event.getId() : refundEvent);
    }

    /** This row with what an event says of its booking. */
    private Expense showing(Event event, PnrData payload) {
        Money fare = payload.getTotalFare();
        return new Expense(
                ticketNumber, event.getPnrId(), event.getOrganizationId(), traveler(payload), fare.getCurrencyCode(),
                milli(fare), refundMilli, netMilli, state, event.getEntity().getVersion(), event.getId(),
                issued, voided, refunded, refundVersion, refundEvent);
    }

    private String traveler(PnrData payload) {
        for (TravelerInfo traveler : payload.getAirPnr().getTravelerInfosList()) {
            if (traveler.getTicketsList().stream().anyMatch(this::isTicket)) {
                return traveler.getUserId().getId();
            }
        }
        return payload.getPnrTravelersCount() == 0 ? "" : payload.getPnrTravelers(0).getUserId().getId();
    }

    private long refundMilli(PnrData payload) {
        Optional<FareAmount> refund = payload.getAirPnr().getTravelerInfosList().stream()
                .flatMap(traveler -> traveler.getTicketsList().stream())
                .filter(this::isTicket)
                .findFirst()
                .filter(ticket -> ticket.getRefundInfo().hasRefundAmount())
                .map(ticket -> ticket.getRefundInfo().getRefundAmount());
        return refund.map(r -> milli(r.getBase()) + milli(r.getTax())).orElseGet(() -> milli(payload.getTotalFare()));
    }

    private boolean isTicket(Ticket ticket) {
        return ticket.getTicketNumber().equals(ticketNumber);
    }

    /** Thousandths, by the one formula that every language computes alike. */
    static long milli(Money money) {
        return (long) Math.floor(money.getAmount() * 1000 + 0.5);
    }

    private static boolean isAfter(long version, String id, long otherVersion, String otherId) {
        return version != otherVersion ? version > otherVersion : Arrays.compareUnsigned(utf8(id), utf8(otherId)) > 0;
    }

    private static byte[] utf8(String text) {
        return text.getBytes(StandardCharsets.UTF_8);
    }
}
