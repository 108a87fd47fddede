package api

import (
	"math"
	"net/http"
	"net/netip"
	"strconv"
	"sync"
	"time"
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

// pacer is a rate limiter per name: the generic cell rate algorithm (ITU-T I.371,
// virtual scheduling), which needs one time per name and none for a name at rest.
type pacer struct {
	interval time.Duration // 0: no limit
	slack    time.Duration // how far ahead of its pace a name may be
	mu       sync.Mutex
	due      map[string]time.Time // when a name that kept to its pace would have got this far
}

func newPacer(rate float64, burst int) *pacer {
	p := &pacer{due: map[string]time.Time{}}
	if rate > 0 {
		p.interval = time.Duration(float64(time.Second) / rate)
		p.slack = p.interval * time.Duration(burst)
	}
	return p
}

// wait is how long a name has to wait for one more; 0: not at all.
func (p *pacer) wait(name string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.behind(name, now)
}

func (p *pacer) behind(name string, now time.Time) time.Duration {
	due := p.due[name]
	if p.interval == 0 || due.Before(now) { // a difference of times far apart would overflow
		return 0
	}
	return max(0, due.Add(p.interval).Sub(now)-p.slack)
}

// take counts one, unless the name has to wait.
func (p *pacer) take(name string, now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	if d := p.behind(name, now); d > 0 || p.interval == 0 {
		return d
	}
	due, known := p.due[name]
	if !known && len(p.due) >= maxPaces {
		p.forget(now)
	}
	if due.Before(now) {
		due = now
	}
	p.due[name] = due.Add(p.interval)
	return 0
}

// forget drops the names at rest, then any until there is room for a while.
func (p *pacer) forget(now time.Time) {
	for name, due := range p.due {
		if due.Before(now) {
			delete(p.due, name)
		}
	}
	for name := range p.due {
		if len(p.due) < maxPaces*3/4 {
			return
		}
		delete(p.due, name)
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
