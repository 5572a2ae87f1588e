package plait

import "google.golang.org/grpc/codes"

// verdict is what the end of one attempt does, by the table that all languages share.
type verdict struct {
	// Whether it may be sent again, as far as the status says.
	retry bool
	// Whether the retry budget pays for it; an OK pays back.
	costs bool
}

// verdictOf judges a status. pushbackMs is what the worker said of trying again: nil nothing, negative
// stop. Codes in never are not tried again, as the contract says.
func verdictOf(code codes.Code, idempotent bool, pushbackMs *int64, never codeSet) verdict {
	stop := pushbackMs != nil && *pushbackMs < 0 && code != codes.OK
	var may bool
	switch code {
	case codes.Unavailable, codes.Aborted:
		may = true
	case codes.DeadlineExceeded, codes.Internal, codes.Unknown:
		may = idempotent
	case codes.ResourceExhausted:
		may = pushbackMs != nil
	default:
	}
	may = may && !never[code]
	return verdict{retry: may && !stop, costs: may || stop}
}

// codeSet is a set of codes.
type codeSet map[codes.Code]bool

// isCandidate tells a code that is tried again where it may be.
func isCandidate(code codes.Code) bool {
	switch code {
	case codes.Unavailable, codes.Aborted, codes.DeadlineExceeded, codes.Internal, codes.Unknown,
		codes.ResourceExhausted:
		return true
	default:
		return false
	}
}

// forBreaker is what a breaker is told of a status.
func forBreaker(code codes.Code) BreakerOutcome {
	switch code {
	case codes.Canceled:
		return BreakerIgnore
	case codes.Unavailable, codes.ResourceExhausted, codes.DeadlineExceeded, codes.Internal,
		codes.Unknown, codes.DataLoss:
		return BreakerFailure
	default:
		return BreakerSuccess
	}
}

// forLimiter is what a limiter is told of a status.
func forLimiter(code codes.Code) limiterOutcome {
	switch code {
	case codes.ResourceExhausted, codes.DeadlineExceeded:
		return limiterDrop
	case codes.Unavailable, codes.Canceled:
		return limiterIgnore
	default:
		return limiterOK
	}
}

// pay takes a token for a failure, or gives a share back for an answer.
func (b *RetryBudget) pay(code codes.Code, found verdict) {
	if code == codes.OK {
		b.Success()
	} else if found.costs {
		b.Failure()
	}
}
