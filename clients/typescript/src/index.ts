/** Reads a spotbridge over gRPC: subscriptions that reconnect and resume by themselves, and the exact bodies of events. */
export { Code } from "@connectrpc/connect";
export { Bridge, type BridgeOptions } from "./bridge.js";
export { eventBody, type EventBodyOptions } from "./body.js";
export { BridgeError } from "./error.js";
export { eventsOf, subscribe, type Reconnect, type SubscribeOptions } from "./subscribe.js";
