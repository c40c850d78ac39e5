package io.github.spotbridge.feed;

import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.payload.v1.TravelerInfo;
import io.github.spotbridge.v1.EntityKind;
import io.github.spotbridge.v1.EntityRef;
import io.github.spotbridge.v1.Event;
import io.github.spotbridge.v1.OperationSummary;
import java.util.List;

/** Builds events of made-up bookings. */
final class Events {
    private Events() {}

    static Event event(String id, String operation, int version, List<String> issued, List<String> voided, List<String> refunded) {
        return event(id, operation, version, issued, voided, refunded, booking(version, "T1", "T2"));
    }

    static Event event(
            String id, String operation, int version, List<String> issued, List<String> voided, List<String> refunded, PnrData booking) {
        Event.Builder event = Event.newBuilder()
                .setId(id)
                .setEventType("PNR_V3")
                .setOperation(operation)
                .setPnrId("P1")
                .setOrganizationId("O" + version)
                .setPnrV3(booking)
                .setOperationSummary(OperationSummary.newBuilder()
                        .addAllTicketsIssued(issued)
                        .addAllTicketsVoided(voided)
                        .addAllTicketsRefunded(refunded));
        EntityRef.Builder entity = EntityRef.newBuilder().setKind(EntityKind.ENTITY_KIND_PNR).setId("P1");
        if (version > 0) {
            entity.setVersion(version);
        }
        return event.setEntity(entity).build();
    }

    /** A booking of this version: its fare tells the version, and each ticket has a traveler of its own. */
    static PnrData booking(int version, String... tickets) {
        PnrData.Builder booking = PnrData.newBuilder();
        booking.getTotalFareBuilder().setAmount(100 + version).setCurrencyCode("EUR");
        booking.addPnrTravelersBuilder().getUserIdBuilder().setId("first");
        for (String number : tickets) {
            TravelerInfo.Builder traveler = booking.getAirPnrBuilder().addTravelerInfosBuilder();
            traveler.getUserIdBuilder().setId("of-" + number);
            traveler.addTicketsBuilder().setTicketNumber(number).getRefundInfoBuilder().getRefundAmountBuilder()
                    .getBaseBuilder().setAmount(version);
        }
        return booking.build();
    }
}
