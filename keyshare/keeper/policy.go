package keeper

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"keybridge/keyshare"
	"keybridge/keyshare/identity"
	"keybridge/keyshare/release"
)

// Policy is a keeper's own rules on releases, beside the manifest's: a JSON file of
// the people who run it.
//
//	{
//	  "bridges": ["bridge-1", "bridge-2"],
//	  "networks": ["10.1.0.0/16", "2001:db8:1::/48"],
//	  "hours": {"days": ["mon", "tue", "wed", "thu", "fri"], "from": "07:00", "to": "19:00", "zone": "Europe/Berlin"},
//	  "rate": {"count": 6, "per": "1h"}
//	}
//
// Each rule may be left out, and allows everything then; an empty list allows nothing.
//
//   - bridges are names in the manifest.
//   - networks are those that the connection may come from, as the keeper sees it.
//   - hours are on the clock of zone, an IANA name. Where "to" is not after "from" the
//     hours go past midnight and belong to the day that they begin on; "24:00" ends a day.
//   - rate is a token bucket for each bridge: count at once, refilled over per. It does
//     not outlive the process, nor a change of the rule.
//
// An operator in a ceremony is held to networks and rate only (all operators share one
// bucket): their session is listed nowhere, and ceremonies happen outside of hours.
//
// The file is read again when it changes. While it cannot be read and understood,
// wholly, nothing is released.
type Policy struct {
	path string
	log  *slog.Logger

	mu      sync.Mutex
	seen    os.FileInfo
	rules   *rules
	err     error // why rules cannot be used
	buckets map[string]*rate.Limiter
}

// OpenPolicy reads a policy file, which must be good when a keeper starts.
func OpenPolicy(path string, log *slog.Logger) (*Policy, error) {
	p := &Policy{path: path, log: log}
	p.refresh()
	return p, p.err
}

// Allow is a Config.Policy. Its error names the rule.
func (p *Policy) Allow(asker identity.Peer, from netip.Addr, _ *release.Transcript) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refresh()
	if p.err != nil {
		return p.err
	}
	return p.allow(time.Now(), asker, from)
}

func (p *Policy) allow(now time.Time, asker identity.Peer, from netip.Addr) error {
	r := p.rules
	bucket := "bridge/" + asker.Name
	if asker.Role == identity.RoleOperator {
		bucket = string(identity.RoleOperator)
	} else {
		if r.bridges != nil && !slices.Contains(r.bridges, asker.Name) {
			return fmt.Errorf("bridges: %s is not listed", asker.Name)
		}
		if r.hours != nil && !r.hours.open(now) {
			return fmt.Errorf("hours: closed at %s", now.In(r.hours.zone).Format("Mon 15:04 MST"))
		}
	}
	if r.networks != nil && !slices.ContainsFunc(r.networks, func(n netip.Prefix) bool { return n.Contains(from) }) {
		return fmt.Errorf("networks: %s is in none of them", from)
	}
	if r.count == 0 {
		return nil
	}
	// Bounded: bridges are enrolled, and operators share one.
	l, ok := p.buckets[bucket]
	if !ok {
		l = rate.NewLimiter(rate.Every(r.per/time.Duration(r.count)), r.count)
		p.buckets[bucket] = l
	}
	if !l.AllowN(now, 1) {
		return fmt.Errorf("rate: more than %d in %v", r.count, r.per)
	}
	return nil
}

// refresh reads the file again if it changed. It runs under mu.
func (p *Policy) refresh() {
	st, err := os.Stat(p.path)
	if err == nil && p.seen != nil && os.SameFile(p.seen, st) && p.seen.ModTime().Equal(st.ModTime()) && p.seen.Size() == st.Size() {
		return
	}
	var b []byte
	var r *rules
	if err == nil {
		b, err = readPolicy(p.path)
	}
	if err == nil {
		if r, err = parsePolicy(b); err != nil {
			err = fmt.Errorf("%s: %w", p.path, err)
		}
	}
	if err != nil {
		err = fmt.Errorf("the policy cannot be used, so nothing is released: %w", err)
		if p.rules != nil && (p.err == nil || p.err.Error() != err.Error()) { // OpenPolicy returns the first
			p.log.Error("policy", "error", err)
		}
	} else if p.rules == nil || p.rules.count != r.count || p.rules.per != r.per {
		p.buckets = make(map[string]*rate.Limiter)
	}
	if err == nil && p.rules != nil {
		p.log.Info("policy read again", "file", p.path)
	}
	if err == nil {
		p.rules = r
	}
	p.seen, p.err = st, err
}

// maxPolicy bounds the file: thousands of bridges and networks.
const maxPolicy = 1 << 20

func readPolicy(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxPolicy+1))
	if err == nil && len(b) > maxPolicy {
		err = fmt.Errorf("%s: longer than %d bytes", path, maxPolicy)
	}
	return b, err
}

// rules is a parsed policy. Nil, or count 0: no such rule.
type rules struct {
	bridges  []string
	networks []netip.Prefix
	hours    *hours
	count    int
	per      time.Duration
}

// hours are minutes of a day; to > from, and above 24 h past midnight.
type hours struct {
	days     [7]bool // by time.Weekday
	from, to int
	zone     *time.Location
}

const day = 24 * 60

// open goes by the clock on the wall, so that it follows summer time.
func (h *hours) open(now time.Time) bool {
	now = now.In(h.zone)
	minute, today := now.Hour()*60+now.Minute(), now.Weekday()
	yesterday := (today + 6) % 7
	return (h.days[today] && minute >= h.from && minute < h.to) ||
		(h.days[yesterday] && minute+day < h.to)
}

func parsePolicy(b []byte) (*rules, error) {
	members, err := object(b, "bridges", "networks", "hours", "rate")
	if err != nil {
		return nil, err
	}
	r := new(rules)
	if raw, ok := members["bridges"]; ok {
		if r.bridges, err = texts(raw); err != nil {
			return nil, fmt.Errorf("bridges: %w", err)
		}
		for _, name := range r.bridges {
			if err := keyshare.CheckName(name); err != nil {
				return nil, fmt.Errorf("bridges: %w", err)
			}
		}
	}
	if raw, ok := members["networks"]; ok {
		list, err := texts(raw)
		if err != nil {
			return nil, fmt.Errorf("networks: %w", err)
		}
		r.networks = make([]netip.Prefix, len(list))
		for i, text := range list {
			n, err := netip.ParsePrefix(text)
			if err != nil || n != n.Masked() || n.Addr().Is4In6() {
				return nil, fmt.Errorf("networks: %q is not a network such as 10.1.0.0/16", text)
			}
			r.networks[i] = n
		}
	}
	if raw, ok := members["hours"]; ok {
		if r.hours, err = parseHours(raw); err != nil {
			return nil, fmt.Errorf("hours: %w", err)
		}
	}
	if raw, ok := members["rate"]; ok {
		if r.count, r.per, err = parseRate(raw); err != nil {
			return nil, fmt.Errorf("rate: %w", err)
		}
	}
	return r, nil
}

var weekdays = [7]string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseHours(b []byte) (*hours, error) {
	members, err := object(b, "days", "from", "to", "zone")
	if err != nil {
		return nil, err
	}
	if len(members) != 4 {
		return nil, errors.New("want days, from, to and zone")
	}
	days, err := texts(members["days"])
	if err != nil {
		return nil, fmt.Errorf("days: %w", err)
	}
	h := new(hours)
	for _, d := range days {
		i := slices.Index(weekdays[:], d)
		if i < 0 || h.days[i] {
			return nil, fmt.Errorf("days: %q is not one of mon, tue, wed, thu, fri, sat, sun, or is there twice", d)
		}
		h.days[i] = true
	}
	var from, to, zone string
	for name, into := range map[string]*string{"from": &from, "to": &to, "zone": &zone} {
		if *into, err = text(members[name]); err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
	}
	if h.from, err = clock(from); err != nil || h.from == day {
		return nil, fmt.Errorf("from: %q is not a time from 00:00 to 23:59", from)
	}
	if h.to, err = clock(to); err != nil || h.to == h.from {
		return nil, fmt.Errorf("to: %q is not a time from 00:00 to 24:00, other than from", to)
	}
	if h.to < h.from {
		h.to += day
	}
	if zone == "" || zone == "Local" {
		return nil, errors.New(`zone: want an IANA name such as "UTC" or "Europe/Berlin"`)
	}
	if h.zone, err = time.LoadLocation(zone); err != nil {
		return nil, fmt.Errorf("zone: %w", err)
	}
	return h, nil
}

// clock is HH:MM in minutes.
func clock(s string) (int, error) {
	if s == "24:00" {
		return day, nil
	}
	t, err := time.Parse("15:04", s)
	if err != nil || t.Format("15:04") != s {
		return 0, errors.New("not a time")
	}
	return t.Hour()*60 + t.Minute(), nil
}

func parseRate(b []byte) (count int, per time.Duration, err error) {
	members, err := object(b, "count", "per")
	if err != nil {
		return 0, 0, err
	}
	if len(members) != 2 {
		return 0, 0, errors.New("want count and per")
	}
	if err := json.Unmarshal(members["count"], &count); err != nil || count < 1 || count > 1_000_000 {
		return 0, 0, errors.New("count: want a number from 1 to 1000000")
	}
	span, err := text(members["per"])
	if err != nil {
		return 0, 0, fmt.Errorf("per: %w", err)
	}
	if per, err = time.ParseDuration(span); err != nil || per < time.Second || per > 366*day*time.Minute {
		return 0, 0, fmt.Errorf(`per: %q is not a duration from 1s to 8784h, such as "10m"`, span)
	}
	return count, per, nil
}

// object reads one JSON object whose members may have the given names, each once and
// spelled just so, which encoding/json by itself would not insist on.
func object(b []byte, names ...string) (map[string]json.RawMessage, error) {
	d := json.NewDecoder(bytes.NewReader(b))
	if t, err := d.Token(); err != nil || t != json.Delim('{') {
		return nil, errors.New("want a JSON object")
	}
	members := make(map[string]json.RawMessage)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, _ := t.(string)
		if _, twice := members[name]; twice || !slices.Contains(names, name) {
			return nil, fmt.Errorf("member %q is not known, or is there twice: want %v", name, names)
		}
		var raw json.RawMessage
		if err := d.Decode(&raw); err != nil {
			return nil, err
		}
		members[name] = raw
	}
	if _, err := d.Token(); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("something follows the JSON object")
	}
	return members, nil
}

// texts reads a list of strings; null, which would mean no rule, is none.
func texts(b []byte) ([]string, error) {
	var list []*string
	if err := json.Unmarshal(b, &list); err != nil || list == nil || slices.Contains(list, nil) {
		return nil, errors.New("want a list of strings")
	}
	out := make([]string, len(list))
	for i, s := range list {
		out[i] = *s
	}
	return out, nil
}

func text(b []byte) (string, error) {
	var s *string
	if err := json.Unmarshal(b, &s); err != nil || s == nil {
		return "", errors.New("want a string")
	}
	return *s, nil
}
