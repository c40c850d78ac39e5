/** The generated messages of spotnana.payload.v1: the typed payloads of events. */
export * from "./gen/spotnana/payload/v1/agent_task_pb.js";
export * from "./gen/spotnana/payload/v1/approval_pb.js";
export * from "./gen/spotnana/payload/v1/common_pb.js";
export * from "./gen/spotnana/payload/v1/envelope_pb.js";
export * from "./gen/spotnana/payload/v1/pnr_pb.js";
export * from "./gen/spotnana/payload/v1/service_charge_pb.js";
export * from "./gen/spotnana/payload/v1/traveler_pb.js";
export * from "./gen/spotnana/payload/v1/trip_pb.js";
