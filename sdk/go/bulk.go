package plait

import (
	"context"
	"iter"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// What a bulk submission may have under way: tasks, and bytes of their requests.
const (
	bulkTasksMax = 8192
	bulkBytesMax = 32 << 20
)

// SubmitMany submits every request of an iterator and yields the handles in the same order, each
// once its task is accepted, or the error with which it was refused; one refusal does not end the
// rest. Requests are pulled ahead, at most 8192 and 32 MiB of them, so memory stays bounded and the
// frames full. Nothing is pulled while the loop's body runs. A loop that stops early leaves the
// tasks that were pulled to go on.
func SubmitMany[Q, R any](
	ctx context.Context, m Method[Q, R], requests iter.Seq[*Q], options ...grpc.CallOption,
) iter.Seq2[*Task[R], error] {
	return func(yield func(*Task[R], error) bool) {
		b := newBulk(m, options, false)
		b.run(ctx, requests, func(p *pending[Q, R]) bool {
			if err := b.accepted(ctx, p); err != nil {
				return yield(nil, err)
			}
			return yield(&p.task, nil)
		})
	}
}

// CallMany submits every request of an iterator and yields the responses in the same order, or the
// error of a task that failed or was refused; one failure does not end the rest. The bounds are
// those of [SubmitMany]. As with a call, a deadline of ctx is the tasks' too.
func CallMany[Q, R any](
	ctx context.Context, m Method[Q, R], requests iter.Seq[*Q], options ...grpc.CallOption,
) iter.Seq2[*R, error] {
	return func(yield func(*R, error) bool) {
		b := newBulk(m, options, true)
		b.run(ctx, requests, func(p *pending[Q, R]) bool {
			if err := b.accepted(ctx, p); err != nil {
				return yield(nil, err)
			}
			response, err := p.task.Result(ctx)
			endSpan(p.task.handle.span, err)
			return yield(response, err)
		})
	}
}

// bulkMode is what a handle knows of the bulk submission that it belongs to.
type bulkMode struct {
	// The results are asked for with the submission.
	await bool
	// Set while a task is submitted again, alone.
	again bool
}

// pending is a request that was pulled and not yet yielded.
type pending[Q, R any] struct {
	task    Task[R]
	request *Q
	size    int
	err     error
}

type bulk[Q, R any] struct {
	bulkMode
	method Method[Q, R]
	// The caller's options, and fill.
	options []grpc.CallOption
	fill    callOption
	pending queue[*pending[Q, R]]
	bytes   int
}

func newBulk[Q, R any](m Method[Q, R], options []grpc.CallOption, await bool) *bulk[Q, R] {
	b := &bulk[Q, R]{
		bulkMode: bulkMode{await: await}, method: m, fill: callOption{kind: asHandle},
	}
	b.options = append(append(b.options, options...), &b.fill)
	return b
}

// run pulls requests and hands each on, in order, when the bounds are reached or its answer is
// there.
func (b *bulk[Q, R]) run(
	ctx context.Context, requests iter.Seq[*Q], next func(*pending[Q, R]) bool,
) {
	defer b.leave()
	for request := range requests {
		b.push(ctx, request)
		for b.full() || b.headReady() {
			if !b.handOn(next) {
				return
			}
		}
	}
	for b.pending.len() > 0 {
		if !b.handOn(next) {
			return
		}
	}
}

func (b *bulk[Q, R]) push(ctx context.Context, request *Q) {
	p := &pending[Q, R]{request: request}
	if message, ok := any(request).(proto.Message); ok {
		p.size = proto.Size(message)
	}
	p.task.handle.bulk = &b.bulkMode
	p.err = b.submit(ctx, p)
	b.bytes += p.size
	b.pending.push(p)
}

func (b *bulk[Q, R]) submit(ctx context.Context, p *pending[Q, R]) error {
	b.fill.handle = &p.task.handle
	response, err := b.method(ctx, p.request, b.options...)
	if err == nil && p.task.handle.client == nil {
		return errNoChannel
	}
	p.task.empty.Store(response)
	return err
}

func (b *bulk[Q, R]) full() bool {
	return b.pending.len() >= bulkTasksMax || b.bytes >= bulkBytesMax
}

// headReady tells whether the oldest can be handed on without a wait.
func (b *bulk[Q, R]) headReady() bool {
	p, ok := b.pending.peek()
	if !ok || p.err != nil {
		return ok
	}
	sub := p.task.handle.submission
	if b.await {
		return sub.wait.done.happened()
	}
	return sub.accepted.happened()
}

func (b *bulk[Q, R]) handOn(next func(*pending[Q, R]) bool) bool {
	p, _ := b.pending.pop()
	b.bytes -= p.size
	return next(p)
}

// leave gives up the results that nobody will read.
func (b *bulk[Q, R]) leave() {
	for p, ok := b.pending.pop(); ok; p, ok = b.pending.pop() {
		if h := &p.task.handle; p.err == nil {
			endSpan(h.span, nil)
			h.client.session.leaveResult(h.submission)
		}
	}
}

// accepted waits until the task is accepted. When the broker has forgotten the method, it is
// announced and submitted again.
func (b *bulk[Q, R]) accepted(ctx context.Context, p *pending[Q, R]) error {
	if p.err != nil {
		return p.err
	}
	h := &p.task.handle
	err := h.client.session.awaitAccepted(ctx, h.submission)
	if err != nil && refusedUnknown(h.submission) {
		h.client.contracts.forget(h.submission.method)
		b.again = true
		err = b.submit(ctx, p)
		b.again = false
	}
	if err == nil {
		h.number = h.submission.wait.task
		setTaskID(h.span, h.number)
	}
	if err != nil || !b.await {
		endSpan(h.span, err)
	}
	p.request = nil
	return err
}
