/**
 * Reads events of a spotbridge over connections that break: {@link io.github.spotbridge.client.GroupConsumer} as a member of a
 * consumer group, {@link io.github.spotbridge.client.Subscriber} with a cursor of its own.
 *
 * <p>Both reconnect by themselves, with backoff, and take a silent stream for a dead one. What they do not survive is an answer
 * that a person has to look at: then {@code run} throws a {@link io.github.spotbridge.client.BridgeException}.
 */
package io.github.spotbridge.client;
