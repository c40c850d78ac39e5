package app_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/spotbridge/spotbridge/app"
	"github.com/spotbridge/spotbridge/bridge/bridgetest/samples"
	pb "github.com/spotbridge/spotbridge/gen/go/spotbridge/v1"
	payloadv1 "github.com/spotbridge/spotbridge/gen/go/spotnana/payload/v1"
)

// typedField is a field as a consumer reads it, and where it stands in the JSON.
type typedField struct {
	path string
	read func(*pb.Event) any
}

// first returns the first item of a list, or an empty one.
func first[T any](list []*T) *T {
	if len(list) == 0 {
		return new(T)
	}
	return list[0]
}

// typedFields are some fields of each kind of payload: strings, numbers, booleans, times, nested and in lists.
var typedFields = map[string][]typedField{
	"air": {
		{"pnrId", func(e *pb.Event) any { return e.GetPnrV3().GetPnrId() }},
		{"version", func(e *pb.Event) any { return e.GetPnrV3().GetVersion() }},
		{"bookingStatus", func(e *pb.Event) any { return e.GetPnrV3().GetBookingStatus() }},
		{"airPnr.legs.0.flights.0.origin", func(e *pb.Event) any { return flight(e.GetPnrV3()).GetOrigin() }},
		{"airPnr.legs.0.flights.0.destination", func(e *pb.Event) any { return flight(e.GetPnrV3()).GetDestination() }},
		{"airPnr.legs.0.flights.0.departureDateTime.iso8601", func(e *pb.Event) any { return flight(e.GetPnrV3()).GetDepartureDateTime().GetIso8601() }},
		{"airPnr.travelerInfos.0.tickets.0.ticketNumber", func(e *pb.Event) any {
			return first(first(e.GetPnrV3().GetAirPnr().GetTravelerInfos()).GetTickets()).GetTicketNumber()
		}},
		{"airPnr.travelerInfos.0.userId.id", func(e *pb.Event) any { return first(e.GetPnrV3().GetAirPnr().GetTravelerInfos()).GetUserId().GetId() }},
	},
	"hotel": {
		{"pnrId", func(e *pb.Event) any { return e.GetPnrV3().GetPnrId() }},
		{"hotelPnr.hotelInfo.name", func(e *pb.Event) any { return e.GetPnrV3().GetHotelPnr().GetHotelInfo().GetName() }},
		{"hotelPnr.hotelInfo.starRating", func(e *pb.Event) any { return e.GetPnrV3().GetHotelPnr().GetHotelInfo().GetStarRating() }},
		{"hotelPnr.checkInDateTime.iso8601", func(e *pb.Event) any { return e.GetPnrV3().GetHotelPnr().GetCheckInDateTime().GetIso8601() }},
		{"hotelPnr.numberOfRooms", func(e *pb.Event) any { return e.GetPnrV3().GetHotelPnr().GetNumberOfRooms() }},
		{"hotelPnr.room.rateInfo.nightlyRate.amount", func(e *pb.Event) any {
			return e.GetPnrV3().GetHotelPnr().GetRoom().GetRateInfo().GetNightlyRate().GetAmount()
		}},
	},
	"car": {
		{"pnrId", func(e *pb.Event) any { return e.GetPnrV3().GetPnrId() }},
		{"carPnr.carInfo.vendor.name", func(e *pb.Event) any { return e.GetPnrV3().GetCarPnr().GetCarInfo().GetVendor().GetName() }},
		{"carPnr.carInfo.carSpec.type", func(e *pb.Event) any { return e.GetPnrV3().GetCarPnr().GetCarInfo().GetCarSpec().GetType() }},
		{"carPnr.pickupDateTime.iso8601", func(e *pb.Event) any { return e.GetPnrV3().GetCarPnr().GetPickupDateTime().GetIso8601() }},
		{"carPnr.rate.base.amount", func(e *pb.Event) any { return e.GetPnrV3().GetCarPnr().GetRate().GetBase().GetAmount() }},
	},
	"rail": {
		{"pnrId", func(e *pb.Event) any { return e.GetPnrV3().GetPnrId() }},
		{"railPnr.legInfos.0.originInfo.name", func(e *pb.Event) any {
			return first(e.GetPnrV3().GetRailPnr().GetLegInfos()).GetOriginInfo().GetName()
		}},
		{"railPnr.legInfos.0.vehicle.carrierName", func(e *pb.Event) any {
			return first(e.GetPnrV3().GetRailPnr().GetLegInfos()).GetVehicle().GetCarrierName()
		}},
		{"railPnr.legInfos.0.departAtLocal.iso8601", func(e *pb.Event) any {
			return first(e.GetPnrV3().GetRailPnr().GetLegInfos()).GetDepartAtLocal().GetIso8601()
		}},
		{"railPnr.tickets.0.price.amount", func(e *pb.Event) any { return first(e.GetPnrV3().GetRailPnr().GetTickets()).GetPrice().GetAmount() }},
	},
	"trip": {
		{"basicTripInfo.tripId", func(e *pb.Event) any { return e.GetTripDetailsV3().GetBasicTripInfo().GetTripId() }},
		{"basicTripInfo.tripName", func(e *pb.Event) any { return e.GetTripDetailsV3().GetBasicTripInfo().GetTripName() }},
		{"basicTripInfo.startDate.iso8601", func(e *pb.Event) any { return e.GetTripDetailsV3().GetBasicTripInfo().GetStartDate().GetIso8601() }},
		{"tripBookingStatus", func(e *pb.Event) any { return e.GetTripDetailsV3().GetTripBookingStatus() }},
		{"pnrs.0.pnrId", func(e *pb.Event) any { return first(e.GetTripDetailsV3().GetPnrs()).GetPnrId() }},
		{"pnrs.0.data.airPnr.legs.0.flights.0.origin", func(e *pb.Event) any { return flight(first(e.GetTripDetailsV3().GetPnrs()).GetData()).GetOrigin() }},
	},
	"traveler": {
		{"id", func(e *pb.Event) any { return e.GetTravelerV2().GetId() }},
		{"personalInfo.name.given", func(e *pb.Event) any { return e.GetTravelerV2().GetPersonalInfo().GetName().GetGiven() }},
		{"personalInfo.email", func(e *pb.Event) any { return e.GetTravelerV2().GetPersonalInfo().GetEmail() }},
		{"businessInfo.organizationRef.id", func(e *pb.Event) any { return e.GetTravelerV2().GetBusinessInfo().GetOrganizationRef().GetId() }},
		{"isActive", func(e *pb.Event) any { return e.GetTravelerV2().GetIsActive() }},
	},
	"service charge": {
		{"chargeId", func(e *pb.Event) any { return e.GetServiceCharge().GetChargeId() }},
		{"charge.totalAmount.amount", func(e *pb.Event) any { return e.GetServiceCharge().GetCharge().GetTotalAmount().GetAmount() }},
		{"charge.totalAmount.currencyCode", func(e *pb.Event) any { return e.GetServiceCharge().GetCharge().GetTotalAmount().GetCurrencyCode() }},
		{"transactionTime.iso8601", func(e *pb.Event) any { return e.GetServiceCharge().GetTransactionTime().GetIso8601() }},
		{"bookingDetails.pnrVersion", func(e *pb.Event) any { return e.GetServiceCharge().GetBookingDetails().GetPnrVersion() }},
		{"agentContact.billable", func(e *pb.Event) any { return e.GetServiceCharge().GetAgentContact().GetBillable() }},
	},
	"approval": {
		{"approvalId", func(e *pb.Event) any { return e.GetPnrApproval().GetApprovalId() }},
		{"pnrId", func(e *pb.Event) any { return e.GetPnrApproval().GetPnrId() }},
		{"tripId", func(e *pb.Event) any { return e.GetPnrApproval().GetTripId() }},
		{"appliedApprovalType", func(e *pb.Event) any { return e.GetPnrApproval().GetAppliedApprovalType() }},
		{"deadline.iso8601", func(e *pb.Event) any { return e.GetPnrApproval().GetDeadline().GetIso8601() }},
	},
	"task": {
		{"id", func(e *pb.Event) any { return e.GetAgentTaskDetails().GetId() }},
		{"taskType", func(e *pb.Event) any { return e.GetAgentTaskDetails().GetTaskType() }},
		{"status", func(e *pb.Event) any { return e.GetAgentTaskDetails().GetStatus() }},
		{"createdAt.iso8601", func(e *pb.Event) any { return e.GetAgentTaskDetails().GetCreatedAt().GetIso8601() }},
		{"assignee.userId.id", func(e *pb.Event) any {
			return e.GetAgentTaskDetails().GetAssignee().GetFields()["userId"].GetStructValue().GetFields()["id"].GetStringValue()
		}},
	},
}

func flight(pnr *payloadv1.PnrData) *payloadv1.Flight {
	return first(first(pnr.GetAirPnr().GetLegs()).GetFlights())
}

// kindOf returns the kind of a sample and its payload.
func kindOf(t testing.TB, d *samples.Delivery) (kind string, payload map[string]any) {
	t.Helper()
	var body struct{ Payload map[string]any }
	if err := json.Unmarshal(d.Body, &body); err != nil {
		t.Fatal(err)
	}
	payload = body.Payload
	if d.Wrapped {
		payload, _ = payload["data"].(map[string]any)
	}
	if d.EventType != "PNR_V3" {
		return map[string]string{
			"TRIP_DETAILS_V3": "trip", "TRAVELER_V2": "traveler", "SERVICE_CHARGE": "service charge", "PNR_APPROVAL": "approval", "AGENT_TASK_DETAILS": "task",
		}[d.EventType], payload
	}
	for _, kind := range []string{"air", "hotel", "car", "rail"} {
		if payload[kind+"Pnr"] != nil {
			return kind, payload
		}
	}
	return "", payload
}

// at returns the value at a path of a decoded JSON value, nil when there is none.
func at(v any, path string) any {
	for _, step := range strings.Split(path, ".") {
		switch x := v.(type) {
		case map[string]any:
			v = x[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i >= len(x) {
				return nil
			}
			v = x[i]
		default:
			return nil
		}
	}
	return v
}

// TestASubscriberReadsTypedFields: the samples come in through the door, and a subscriber with the default view reads their
// fields live and again from history. What a field must be is read from the JSON by other means.
func TestASubscriberReadsTypedFields(t *testing.T) {
	r := start(t, testConfig(t), app.Options{})
	ctx, cancel := context.WithTimeout(t.Context(), 60*time.Second)
	defer cancel()
	stream, err := pb.NewSubscriptionServiceClient(r.conn).Subscribe(ctx, &pb.SubscribeRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if m, err := stream.Recv(); err != nil || m.GetConfirmation() == nil {
		t.Fatal(err, m)
	}
	accepted := r.deliverAll(t)
	sent := map[string]*samples.Delivery{}
	for _, d := range accepted {
		sent["sandbox."+d.WebhookID()] = d
	}
	var live []*pb.Event
	for len(live) < len(accepted) {
		m, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if e := m.GetEvent(); e != nil {
			live = append(live, e)
		}
	}

	read := map[string]map[string]int{} // how many events had a value, by kind and path
	for _, e := range live {
		kind, payload := kindOf(t, sent[e.GetId()])
		if s := e.GetConversion().GetStatus(); s != pb.ConversionStatus_CONVERSION_STATUS_FULL {
			t.Errorf("%s: %s", sent[e.GetId()].File, e.GetConversion())
		}
		if len(e.GetRawBody()) > 0 {
			t.Error("the typed view has the body")
		}
		for _, f := range typedFields[kind] {
			got, want := f.read(e), at(payload, f.path)
			if want == nil {
				continue
			}
			if n, ok := want.(float64); ok && fmt.Sprintf("%T", got) == "int32" {
				want = int32(n)
			}
			if got != want {
				t.Errorf("%s: %s is not what the JSON says", sent[e.GetId()].File, f.path)
			}
			if read[kind] == nil {
				read[kind] = map[string]int{}
			}
			read[kind][f.path]++
		}
	}
	for kind, fields := range typedFields {
		for _, f := range fields {
			if read[kind][f.path] == 0 {
				t.Errorf("%s: no event has %s", kind, f.path)
			}
		}
	}

	history, _ := r.collect(t, &pb.SubscribeRequest{Start: pb.Start_START_EARLIEST})
	if len(history) != len(live) {
		t.Fatalf("%d events in history, %d live", len(history), len(live))
	}
	for i, e := range history {
		if !proto.Equal(e, live[i]) {
			t.Errorf("event %d from history differs from the live one", e.GetSequence())
		}
	}
}
