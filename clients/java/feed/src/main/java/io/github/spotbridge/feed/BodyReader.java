package io.github.spotbridge.feed;

import com.google.gson.JsonArray;
import com.google.gson.JsonElement;
import com.google.gson.JsonObject;
import com.google.gson.JsonParser;
import com.google.gson.JsonPrimitive;
import com.google.gson.JsonSyntaxException;
import io.github.spotbridge.payload.v1.FareAmount;
import io.github.spotbridge.payload.v1.Money;
import io.github.spotbridge.payload.v1.PnrData;
import io.github.spotbridge.payload.v1.PnrTraveler;
import io.github.spotbridge.payload.v1.Ticket;
import io.github.spotbridge.payload.v1.TravelerInfo;
import io.github.spotbridge.payload.v1.UserId;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;

/**
 * Takes from the JSON of a body what the feed needs of a booking. As in the bridge's own conversion, a member of another type
 * than documented is absent; ProtoJSON's parser would refuse the whole body for one of them.
 */
final class BodyReader {
    private BodyReader() {}

    /** Reads a body; one that is no JSON object has no payload. */
    static PnrData booking(byte[] body) {
        JsonObject payload = object(parse(body), "payload");
        if (payload.get("data") instanceof JsonObject wrapped) {
            payload = wrapped; // {pnrId, data}
        }
        PnrData.Builder booking = PnrData.newBuilder();
        if (payload.get("totalFare") instanceof JsonObject fare) {
            booking.setTotalFare(money(fare));
        }
        for (JsonObject traveler : objects(payload, "pnrTravelers")) {
            booking.addPnrTravelers(PnrTraveler.newBuilder().setUserId(userId(traveler)));
        }
        for (JsonObject traveler : objects(object(payload, "airPnr"), "travelerInfos")) {
            TravelerInfo.Builder info = booking.getAirPnrBuilder().addTravelerInfosBuilder().setUserId(userId(traveler));
            objects(traveler, "tickets").forEach(ticket -> info.addTickets(ticket(ticket)));
        }
        return booking.build();
    }

    private static JsonObject parse(byte[] body) {
        try {
            return JsonParser.parseString(new String(body, StandardCharsets.UTF_8)) instanceof JsonObject root ? root : new JsonObject();
        } catch (JsonSyntaxException e) {
            return new JsonObject();
        }
    }

    private static Ticket ticket(JsonObject json) {
        Ticket.Builder ticket = Ticket.newBuilder().setTicketNumber(text(json, "ticketNumber"));
        if (object(json, "refundInfo").get("refundAmount") instanceof JsonObject amount) {
            FareAmount.Builder refund = ticket.getRefundInfoBuilder().getRefundAmountBuilder();
            refund.setBase(money(object(amount, "base"))).setTax(money(object(amount, "tax")));
        }
        return ticket.build();
    }

    private static Money money(JsonObject json) {
        Money.Builder money = Money.newBuilder().setCurrencyCode(text(json, "currencyCode"));
        if (json.get("amount") instanceof JsonPrimitive amount && !amount.isBoolean()) {
            try {
                money.setAmount(amount.getAsDouble()); // a number in a string counts, as in the conversion
            } catch (NumberFormatException e) {
                // Absent.
            }
        }
        return money.build();
    }

    private static UserId userId(JsonObject traveler) {
        return UserId.newBuilder().setId(text(object(traveler, "userId"), "id")).build();
    }

    private static JsonObject object(JsonObject parent, String name) {
        return parent.get(name) instanceof JsonObject child ? child : new JsonObject();
    }

    /** A list of objects; what is none is an empty one, so that the others keep their places. */
    private static List<JsonObject> objects(JsonObject parent, String name) {
        List<JsonObject> children = new ArrayList<>();
        if (parent.get(name) instanceof JsonArray array) {
            for (JsonElement child : array) {
                children.add(child instanceof JsonObject o ? o : new JsonObject());
            }
        }
        return children;
    }

    private static String text(JsonObject parent, String name) {
        return parent.get(name) instanceof JsonPrimitive value && value.isString() ? value.getAsString() : "";
    }
}
