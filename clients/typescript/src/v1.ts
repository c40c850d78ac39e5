/** The generated messages and services of spotbridge.v1. */
export * from "./gen/spotbridge/v1/catalog_pb.js";
export * from "./gen/spotbridge/v1/delivery_pb.js";
export * from "./gen/spotbridge/v1/error_pb.js";
export * from "./gen/spotbridge/v1/event_pb.js";
export * from "./gen/spotbridge/v1/group_pb.js";
export * from "./gen/spotbridge/v1/history_pb.js";
export * from "./gen/spotbridge/v1/subscription_pb.js";
