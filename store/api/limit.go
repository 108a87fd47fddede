package api

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Limits say how fast callers may go; a zero field is its default, a negative
// rate is no limit.
type Limits struct {
	// Requests per second of one token, after a burst. Default 100, burst 200.
	Requests float64
	Burst    int
	// Failures per second are wrong tokens of one client address, after a burst;
	// beyond it only tokens that were right before are heard from there. Default one
	// in 2 s, burst 20.
	Failures     float64
	FailureBurst int
}

func (l Limits) withDefaults() Limits {
	if l.Requests == 0 {
		l.Requests = 100
	}
	if l.Burst == 0 {
		l.Burst = 200
	}
	if l.Failures == 0 {
		l.Failures = 0.5
	}
	if l.FailureBurst == 0 {
		l.FailureBurst = 20
	}
	return l
}

// maxPaces bounds what a limiter remembers: an IPv6 client has addresses without end.
const maxPaces = 8192

// pacer is a rate limiter per name. A name at rest needs no memory: its bucket is full.
type pacer struct {
	limit rate.Limit // 0: no limit
	burst int
	mu    sync.Mutex
	of    map[string]*rate.Limiter
}

func newPacer(perSecond float64, burst int) *pacer {
	return &pacer{limit: rate.Limit(max(0, perSecond)), burst: burst, of: map[string]*rate.Limiter{}}
}

// wait is how long a name has to wait for one more; 0: not at all.
func (p *pacer) wait(name string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.of[name]
	if l == nil {
		return 0
	}
	r := l.ReserveN(now, 1)
	defer r.CancelAt(now)
	return r.DelayFrom(now)
}

// take counts one, unless the name has to wait.
func (p *pacer) take(name string, now time.Time) time.Duration {
	if p.limit == 0 {
		return 0
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	l := p.of[name]
	if l == nil {
		if len(p.of) >= maxPaces {
			p.forget(now)
		}
		l = rate.NewLimiter(p.limit, p.burst)
		p.of[name] = l
	}
	r := l.ReserveN(now, 1)
	d := r.DelayFrom(now)
	if d > 0 {
		r.CancelAt(now)
	}
	return d
}

// forget drops the names at rest, then any until there is room for a while.
func (p *pacer) forget(now time.Time) {
	for name, l := range p.of {
		if l.TokensAt(now) >= float64(p.burst) {
			delete(p.of, name)
		}
	}
	for name := range p.of {
		if len(p.of) < maxPaces*3/4 {
			return
		}
		delete(p.of, name)
	}
}

// clientAddress is whom a failure is counted against: the peer of the connection,
// since a forwarded address is whatever the caller says; a /64 of IPv6, since that
// is what one client has.
func clientAddress(r *http.Request) string {
	ap, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return r.RemoteAddr
	}
	addr := ap.Addr().Unmap().WithZone("")
	if addr.Is6() {
		if prefix, err := addr.Prefix(64); err == nil {
			return prefix.String()
		}
	}
	return addr.String()
}

// tooMany is a 429 that says when to come back.
func (q *call) tooMany(wait time.Duration, message string) error {
	q.w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(wait.Seconds()))))
	return &failure{http.StatusTooManyRequests, "TOO_MANY_REQUESTS", message}
}
