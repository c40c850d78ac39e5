package io.github.spotbridge.feed;

import static org.junit.jupiter.api.Assertions.assertEquals;
import static org.junit.jupiter.api.Assertions.assertFalse;
import static org.junit.jupiter.api.Assertions.assertTrue;

import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.payload.v1.TravelerInfo;
import java.nio.charset.StandardCharsets;
import org.junit.jupiter.api.Test;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.ValueSource;

class BodyReaderTest {
    private static final String BOOKING = """
            {"totalFare": {"amount": 1469.23, "currencyCode": "AUD"}, "pnrTravelers": [{"userId": {"id": "u1"}}, {}],
             "version": "not read", "airPnr": {"legs": 7, "travelerInfos": [
               {"userId": {"id": "u2"}, "tickets": [
                 {"ticketNumber": "T1", "refundInfo": {"refundAmount": {"base": {"amount": 1477.83}, "tax": {"amount": "9.63"}}}},
                 {"ticketNumber": "T2", "refundInfo": {"refundAmount": null}}]}]}}
            """;

    private static PnrData read(String body) {
        return BodyReader.booking(body.getBytes(StandardCharsets.UTF_8));
    }

    @ParameterizedTest
    @ValueSource(strings = {"{\"payload\": %s}", "{\"payload\": {\"pnrId\": \"P1\", \"data\": %s}}"})
    void readsWhatTheFeedNeeds(String envelope) {
        PnrData booking = read(envelope.formatted(BOOKING));
        assertEquals(1469.23, booking.getTotalFare().getAmount());
        assertEquals("AUD", booking.getTotalFare().getCurrencyCode());
        assertEquals("u1", booking.getPnrTravelers(0).getUserId().getId());
        TravelerInfo traveler = booking.getAirPnr().getTravelerInfos(0);
        assertEquals("u2", traveler.getUserId().getId());
        assertEquals(1477.83, traveler.getTickets(0).getRefundInfo().getRefundAmount().getBase().getAmount());
        assertEquals(9.63, traveler.getTickets(0).getRefundInfo().getRefundAmount().getTax().getAmount());
        assertTrue(traveler.getTickets(0).getRefundInfo().hasRefundAmount());
        assertFalse(traveler.getTickets(1).getRefundInfo().hasRefundAmount());
    }

    @ParameterizedTest
    @ValueSource(strings = {
        "", "[]", "null", "{", "{\"payload\": 7}", "{\"payload\": {\"totalFare\": [], \"pnrTravelers\": {}, \"airPnr\": \"x\"}}",
        "{\"payload\": {\"totalFare\": {\"amount\": true, \"currencyCode\": 5}, \"airPnr\": {\"travelerInfos\": 1}}}",
        "{\"payload\": {\"totalFare\": {\"amount\": \"much\"}, \"pnrTravelers\": []}}"
    })
    void whatIsOfAnotherTypeIsAbsent(String body) {
        PnrData booking = read(body);
        assertEquals(0, booking.getTotalFare().getAmount());
        assertEquals("", booking.getTotalFare().getCurrencyCode());
        assertEquals(0, booking.getPnrTravelersCount());
        assertEquals(0, booking.getAirPnr().getTravelerInfosCount());
    }

    @Test
    void whatIsNoObjectInAListKeepsItsPlace() {
        PnrData booking = read("{\"payload\": {\"pnrTravelers\": [null, {\"userId\": {\"id\": \"u2\"}}]}}");
        assertEquals("", booking.getPnrTravelers(0).getUserId().getId());
        assertEquals("u2", booking.getPnrTravelers(1).getUserId().getId());
    }
}
