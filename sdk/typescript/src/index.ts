/**
 * Plait for TypeScript: durable tasks behind the Connect clients and routers you have.
 *
 *     const plait = connect();
 *     const orders = createClient(OrderService, plait.channel());
 *     const receipt = await orders.charge({ orderId: "1" }); // durable, waits for the result
 *     const task = await plait.submit(OrderService.method.charge, { orderId: "2" });
 *     await plait.worker().serve((router) => router.service(OrderService, impl)).run();
 */
export { Attempt, attempt } from "./attempt.js";
export * as breaker from "./breaker.js";
export type { Requests } from "./bulk.js";
export type { ChannelOptions } from "./channel.js";
export { type BulkOptions, type Client, connect } from "./client.js";
export * as deadline from "./deadline.js";
export type { DirectOptions } from "./direct.js";
export * as errors from "./errors.js";
export { type FlagOptions, flag } from "./flags.js";
export * as limiter from "./limiter.js";
export { options, type TaskOptions } from "./options.js";
export * as retry from "./retry.js";
export { type AttemptOptions, directOptions } from "./rules.js";
export { isFinal, type Snapshot, type Task, TaskState, type Wait } from "./task.js";
export { configure as configureTracing } from "./trace.js";
export type { Worker, WorkerOptions } from "./worker.js";
