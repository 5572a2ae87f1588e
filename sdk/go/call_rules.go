package plait

import (
	"time"

	rpccode "google.golang.org/genproto/googleapis/rpc/code"
	spb "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/known/durationpb"

	plaitv1 "plait.dev/plait/gen/plait/v1"
)

const (
	// callAttempts are those of a call by default: a task may be tried for days, a call has a caller
	// who waits. A6 allows no more than callAttemptsMax.
	callAttempts, callAttemptsMax = 3, 5
	// callTimeoutMs bounds a call of a method that the program has no contract of.
	callTimeoutMs = 60_000
	budgetTokens  = 10
	// budgetRatioPermille is the share of a token that an answer pays back (A6).
	budgetRatioPermille = 100
)

// callRules are what holds for the direct calls of one method.
type callRules struct {
	maxAttempts int
	idempotent  bool
	hedge       bool
	// 0: what the latest calls took.
	hedgeDelayMs int64
	// Codes that are not tried again.
	never codeSet
	// The longest that a call may take, its attempts together.
	timeoutMs int64
	// nil: none.
	breaker      *BreakerConfig
	limiter      *LimiterConfig
	budgetTokens int64
}

// DirectOption changes how direct calls are tried again, given a rest and bounded. What no option says
// is as the contract does.
type DirectOption interface{ applyDirect(rules *callRules) }

// DirectCallOption is a DirectOption that may also be given to one call: it is a grpc.CallOption.
type DirectCallOption struct {
	grpc.EmptyCallOption
	apply func(*callRules)
}

func (o DirectCallOption) applyDirect(rules *callRules) { o.apply(rules) }

// channelOption is for channels alone: what is counted under it is the channel's own.
type channelOption func(*callRules)

func (o channelOption) applyDirect(rules *callRules) { o(rules) }

// WithMaxAttempts bounds the attempts of a direct call, 1 to 5. Default 3, or the policy's
// retry.max_attempts where it is less; 1 with AT_MOST_ONCE.
func WithMaxAttempts(attempts int) DirectCallOption {
	return DirectCallOption{apply: func(r *callRules) {
		r.maxAttempts = max(1, min(callAttemptsMax, attempts))
	}}
}

// WithIdempotent says whether a direct call may be done twice: then INTERNAL, UNKNOWN and
// DEADLINE_EXCEEDED of an attempt are tried again, too. Default: an idempotency_level or an
// idempotency_key in the contract.
func WithIdempotent(idempotent bool) DirectCallOption {
	return DirectCallOption{apply: func(r *callRules) { r.idempotent = idempotent }}
}

// WithHedge says whether a direct call that takes long is sent once more beside the first, and the
// first answer is taken. Idempotent methods only. Default: with idempotency_level NO_SIDE_EFFECTS.
func WithHedge(hedge bool) DirectCallOption {
	return DirectCallOption{apply: func(r *callRules) { r.hedge = hedge }}
}

// WithHedgeDelay says how long a direct call takes before it is hedged, at least 1 ms. Default: what
// 95 % of the method's latest calls took, at least 10 ms; none is hedged before 20 were answered.
func WithHedgeDelay(delay time.Duration) DirectCallOption {
	return DirectCallOption{apply: func(r *callRules) { r.hedgeDelayMs = max(1, delay.Milliseconds()) }}
}

// WithBreaker says when a method of a channel is given a rest; nil: never. Default: the policy's
// breaker. A channel that says so counts for itself.
func WithBreaker(config *BreakerConfig) DirectOption {
	return channelOption(func(r *callRules) { r.breaker = config })
}

// WithLimiter says how many calls of a method of a channel may be under way; nil: any number. Default:
// DefaultLimiterConfig. A channel that says so counts for itself.
func WithLimiter(config *LimiterConfig) DirectOption {
	return channelOption(func(r *callRules) { r.limiter = config })
}

// WithBudgetTokens is the size of the retry budget of a service, in failures; half of it may be spent.
// Default 10. A channel that says so counts for itself.
func WithBudgetTokens(tokens int64) DirectOption {
	return channelOption(func(r *callRules) { r.budgetTokens = tokens })
}

// rulesOf is what the contract in this program says of a method; the defaults where it has none.
func rulesOf(descriptors Descriptors, path string) *callRules {
	breaker, limiter := DefaultBreakerConfig(), DefaultLimiterConfig()
	rules := &callRules{
		maxAttempts: callAttempts, timeoutMs: callTimeoutMs, breaker: &breaker, limiter: &limiter,
		budgetTokens: budgetTokens,
	}
	service, name, ok := splitMethod(path)
	if !ok {
		return rules
	}
	sd, err := serviceDescriptor(descriptors, service)
	if err != nil {
		return rules
	}
	if m := sd.Methods().ByName(protoreflect.Name(name)); m != nil {
		rules.contract(m)
	}
	return rules
}

func (r *callRules) contract(m protoreflect.MethodDescriptor) {
	policy, own := mergedPolicy(m)
	options := optionsOf[*descriptorpb.MethodOptions](m)
	level := options.GetIdempotencyLevel()
	once := policy.GetDelivery() == plaitv1.Delivery_DELIVERY_AT_MOST_ONCE
	retry := policy.GetRetry()
	if retry != nil && retry.MaxAttempts != nil {
		r.maxAttempts = max(1, min(callAttempts, int(retry.GetMaxAttempts())))
	}
	if once {
		r.maxAttempts = 1
	}
	r.idempotent = policy.GetIdempotencyKey() != "" ||
		level != descriptorpb.MethodOptions_IDEMPOTENCY_UNKNOWN
	r.hedge = level == descriptorpb.MethodOptions_NO_SIDE_EFFECTS && !once
	r.never = codeSet{}
	for _, code := range retry.GetNonRetryableCodes() {
		r.never[codeOf(code)] = true
	}
	if len(own.GetRetry().GetNonRetryableCodes()) == 0 {
		for _, code := range retry.GetRetryableCodes() {
			delete(r.never, codeOf(code))
		}
	}
	r.takeTimeout(policy)
	r.takeBreaker(policy.GetBreaker())
}

func codeOf(code rpccode.Code) codes.Code {
	return status.FromProto(&spb.Status{Code: int32(code)}).Code()
}

func (r *callRules) takeTimeout(policy *plaitv1.TaskPolicy) {
	if said := policy.GetAttemptTimeout(); said != nil {
		r.timeoutMs = said.AsDuration().Milliseconds()
	}
	if said := policy.GetDeadline(); said != nil {
		r.timeoutMs = min(r.timeoutMs, said.AsDuration().Milliseconds())
	}
}

func (r *callRules) takeBreaker(policy *plaitv1.BreakerPolicy) {
	if policy == nil {
		return
	}
	if policy.GetDisabled() {
		r.breaker = nil
		return
	}
	take := func(into *int64, said *durationpb.Duration) {
		if said != nil {
			*into = said.AsDuration().Milliseconds()
		}
	}
	count := func(into *int64, said *int32) {
		if said != nil {
			*into = int64(*said)
		}
	}
	take(&r.breaker.WindowMs, policy.GetWindow())
	take(&r.breaker.OpenMs, policy.GetOpen())
	take(&r.breaker.OpenMaxMs, policy.GetOpenMax())
	count(&r.breaker.MinCalls, policy.MinCalls)
	count(&r.breaker.FailurePermille, policy.FailurePermille)
	count(&r.breaker.HalfOpenProbes, policy.HalfOpenProbes)
}

// mergedPolicy is a method's policy over its service's defaults, field by field, and its own.
func mergedPolicy(m protoreflect.MethodDescriptor) (merged, own *plaitv1.TaskPolicy) {
	merged = &plaitv1.TaskPolicy{}
	service, ok := m.Parent().(protoreflect.ServiceDescriptor)
	if options := optionsOf[*descriptorpb.ServiceOptions](service); ok && options != nil {
		defaults, is := proto.GetExtension(options, plaitv1.E_TaskDefaults).(*plaitv1.TaskPolicy)
		if is && defaults != nil {
			proto.Merge(merged, defaults)
		}
	}
	if options := optionsOf[*descriptorpb.MethodOptions](m); options != nil {
		own, _ = proto.GetExtension(options, plaitv1.E_Task).(*plaitv1.TaskPolicy)
	}
	if own != nil {
		lay(own.ProtoReflect(), merged.ProtoReflect())
	}
	return merged, own
}

func optionsOf[O proto.Message](d protoreflect.Descriptor) (options O) {
	options, _ = d.Options().(O)
	return options
}

// lay copies what is set; a duration and a list are one value.
func lay(over, under protoreflect.Message) {
	over.Range(func(field protoreflect.FieldDescriptor, value protoreflect.Value) bool {
		isPart := field.Message() != nil && !field.IsList() &&
			field.Message().FullName() != "google.protobuf.Duration"
		if isPart {
			lay(value.Message(), under.Mutable(field).Message())
		} else {
			under.Set(field, value)
		}
		return true
	})
}
