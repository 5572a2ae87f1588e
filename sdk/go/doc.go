// Package plait makes the methods of any protobuf service durable, with the gRPC stubs that a
// program already has.
//
// A client hands [Client.Channel] to its generated stub; a call through it is a durable task that
// survives every process involved, and the call waits for its result. [Submit] takes a method of
// the same stub and answers with a handle at once. A worker registers its generated service on
// [Client.Worker] and runs it.
//
//	p, err := plait.Connect(ctx)
//	w := p.Worker()
//	shopv1.RegisterOrderServiceServer(w, orders{})
//	err = w.Run(ctx)
//
//	c := shopv1.NewOrderServiceClient(p.Channel())
//	receipt, err := c.Charge(ctx, &shopv1.ChargeRequest{OrderId: "o1"})
//	task, err := plait.Submit(ctx, c.Charge, &shopv1.ChargeRequest{OrderId: "o2"})
//	receipt, err = task.Result(ctx)
//
// How a method behaves (deadline, retries, keys, order) is written in its contract, as option
// (plait.v1.task). Errors are gRPC statuses: a handler's own arrive unchanged, Plait's carry a
// google.rpc.ErrorInfo that [Reason] reads.
//
// The package deliberately has no handler interface, no code generator and no wire format of its
// own, and it does not retry tasks: the broker does.
package plait
