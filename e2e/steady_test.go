package e2e_test

import (
	"bytes"
	"context"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"keybridge/e2e/provider"
)

// steady is applications at work while something is broken: two of S3 and two of AI, one
// of each over HTTP/2, each at its own pace, with keys that nobody touches. Every answer
// is held against what the application knows: it is the right one, a refusal in the
// protocol's words that says 503, or a connection that ends within the request. Anything
// else fails the test, and so does a provider credential in an answer.
type steady struct {
	w    *world
	pace time.Duration // the pause between two requests of an application
	stop context.CancelFunc
	done sync.WaitGroup

	mu    sync.Mutex
	tries map[string][]attempt // by application
	wrong []string
}

// outcome is how a request may end.
type outcome uint8

const (
	served  outcome = iota
	refused         // 503, in the protocol's words
	broken          // no whole answer: no connection, or its end
)

type attempt struct {
	began, ended time.Time
	outcome      outcome
	detail       string // what was not served
}

const (
	pace = 20 * time.Millisecond
	// hangs is how long no request may take, whatever is broken.
	hangs = 15 * time.Second
	// recovered is how many requests of each application in a row are a recovery.
	recovered = 5
)

// startSteady starts the applications, and returns once all are served.
func (w *world) startSteady(t *testing.T, pace time.Duration) *steady {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	s := &steady{w: w, pace: pace, stop: cancel, tries: map[string][]attempt{}}
	t.Cleanup(func() { cancel(); s.done.Wait() })
	for _, http2 := range []bool{false, true} {
		c := unhurried(t, http2)
		c.Timeout = hangs
		version := map[bool]string{false: "HTTP/1.1", true: "HTTP/2"}[http2]
		s.work(ctx, "S3 over "+version, s.s3Application(c, "steady-"+strings.ToLower(version[5:])))
		s.work(ctx, "AI over "+version, s.aiApplication(c))
	}
	s.recovers(t, time.Now())
	return s
}

// work makes request after request, until ctx ends.
func (s *steady) work(ctx context.Context, who string, next func(context.Context) (what string, o outcome, err error)) {
	s.mu.Lock()
	s.tries[who] = nil
	s.mu.Unlock()
	s.done.Go(func() {
		tick := time.NewTicker(s.pace)
		defer tick.Stop()
		for ctx.Err() == nil {
			began := time.Now()
			what, o, err := next(ctx)
			if ctx.Err() != nil {
				return // cut off by the end of the test
			}
			s.mu.Lock()
			one := attempt{began: began, ended: time.Now(), outcome: o}
			if err != nil {
				one.detail = fmt.Sprintf("%s %s %s: %v", began.Format("15:04:05.000"), who, what, err)
			}
			if w := (wrongAnswer{}); errors.As(err, &w) {
				s.wrong = append(s.wrong, one.detail)
			}
			s.tries[who] = append(s.tries[who], one)
			s.mu.Unlock()
			<-tick.C
		}
	})
}

// wrongAnswer is one that no fault excuses.
type wrongAnswer struct{ error }

func wrong(format string, args ...any) (outcome, error) {
	return broken, wrongAnswer{fmt.Errorf(format, args...)}
}

// fetch makes a request and reads its answer; a secret of the provider in it is wrong.
func (s *steady) fetch(c *http.Client, q *http.Request) (answer, error) {
	res, err := c.Do(q)
	if err != nil {
		return answer{}, unserved(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	a := answer{res.StatusCode, res.Header, string(body)}
	head := new(bytes.Buffer)
	_ = res.Header.Write(head) // to memory
	if leaks := append(s.w.beforeEnvoy.In(body), s.w.beforeEnvoy.In(head.Bytes())...); len(leaks) > 0 {
		return a, wrongAnswer{fmt.Errorf("%s in the answer", leaks)}
	}
	return a, unserved(err)
}

// unserved lets a connection end, but no request hang.
func unserved(err error) error {
	var late interface{ Timeout() bool }
	if errors.As(err, &late) && late.Timeout() {
		return wrongAnswer{fmt.Errorf("no answer within %v: %w", hangs, err)}
	}
	return err
}

// s3Application writes an object in every way, reads it, lists it.
func (s *steady) s3Application(c *http.Client, object string) func(context.Context) (string, outcome, error) {
	path, round, step := "/"+bucket+"/"+object, 0, 0
	// What was written last and acknowledged, and what was written since without being so:
	// the provider may have it or not.
	var sure string
	var perhaps []string
	get := s3Request{method: http.MethodGet, path: path, key: s.w.read}
	head := s3Request{method: http.MethodHead, path: path, key: s.w.read}
	list := s3Request{method: http.MethodGet, path: "/" + bucket + "?list-type=2&prefix=" + object, key: s.w.admin}
	return func(ctx context.Context) (string, outcome, error) {
		step++
		q, text := get, ""
		switch step % 6 {
		case 1, 3: // one put in three forms, in turn
			round++
			text = fmt.Sprintf("round %d of %s\n", round, object)
			text += strings.Repeat("x", 48<<10-len(text))
			q = s3Request{method: http.MethodPut, path: path, key: s.w.write, body: text}
			if q.hash = ""; round%3 == 1 {
				q.hash = "UNSIGNED-PAYLOAD"
			} else if round%3 == 2 {
				q = chunkedPut(s.w, path, text, 16<<10, "", nil)
			}
		case 2, 4:
		case 5:
			q = head
		default:
			q = list
		}
		what := q.method + " " + q.path
		r, err := s.w.signS3At(ctx, s.w.endpoints.S3, q)
		if err != nil {
			return what, broken, wrongAnswer{err}
		}
		a, err := s.fetch(c, r)
		if q.method == http.MethodPut {
			if err == nil && a.status == http.StatusOK {
				sure, perhaps = text, nil
				return what, served, nil
			}
			perhaps = append(perhaps, text)
		}
		if err != nil {
			return what, broken, err
		}
		switch known := append([]string{sure}, perhaps...); {
		case a.status != http.StatusOK:
			o, err := unavailableS3(q.method, a)
			return what, o, err
		case q.method == http.MethodGet && q.path == path && !slices.Contains(known, a.body):
			o, err := wrong("an object that was not written: %d bytes, %.60q", len(a.body), a.body)
			return what, o, err
		case q.method == http.MethodHead && a.header.Get("Content-Length") != fmt.Sprint(len(sure)),
			q.path == list.path && !strings.Contains(a.body, fmt.Sprintf("<Key>%s</Key>", object)):
			o, err := wrong("%v", a)
			return what, o, err
		}
		return what, served, nil
	}
}

// unavailableS3 is a 503 as S3 says it, or wrong.
func unavailableS3(method string, a answer) (outcome, error) {
	var doc struct {
		XMLName xml.Name `xml:"Error"`
		Code    string
	}
	if a.status != http.StatusServiceUnavailable || method != http.MethodHead && (xml.Unmarshal([]byte(a.body), &doc) != nil || doc.Code != "ServiceUnavailable") {
		return wrong("%d %.300s", a.status, a.body)
	}
	return refused, fmt.Errorf("503 %s", doc.Code)
}

// aiApplication chats, and has every second answer streamed.
func (s *steady) aiApplication(c *http.Client) func(context.Context) (string, outcome, error) {
	round := 0
	return func(ctx context.Context) (string, outcome, error) {
		round++
		stream := round%2 == 0
		what := map[bool]string{false: "chat", true: "stream"}[stream]
		said := fmt.Sprintf("one two three %d", round)
		body := fmt.Sprintf(`{"model":%q,"stream":%v,"messages":[{"role":"user","content":%q}]}`, provider.Models[0], stream, said)
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.w.endpoints.AI+"/v1/chat/completions", strings.NewReader(body))
		if err != nil {
			return what, broken, wrongAnswer{err}
		}
		q.Header.Set("Content-Type", "application/json")
		q.Header.Set("Authorization", "Bearer "+s.w.aiKey)
		a, err := s.fetch(c, q)
		if err != nil {
			return what, broken, err
		}
		if a.status != http.StatusOK {
			o, err := unavailableAI(a)
			return what, o, err
		}
		text, whole := completion(a.body), true
		if stream {
			text, whole = streamedText(a.body)
		}
		if text != "You said: "+said || !whole {
			o, err := wrong("the answer %q, whole: %v", text, whole)
			return what, o, err
		}
		return what, served, nil
	}
}

// unavailableAI is a 503 as OpenAI says it, or wrong.
func unavailableAI(a answer) (outcome, error) {
	var doc struct {
		Error struct{ Message, Type, Code string }
	}
	if err := json.Unmarshal([]byte(a.body), &doc); err != nil || a.status != http.StatusServiceUnavailable || doc.Error.Message == "" || doc.Error.Type == "" {
		return wrong("%d %.300s", a.status, a.body)
	}
	return refused, fmt.Errorf("503 %s", doc.Error.Code)
}

type choices struct {
	Choices []struct{ Message, Delta struct{ Content string } }
}

func completion(body string) string {
	var c choices
	if err := json.Unmarshal([]byte(body), &c); err != nil || len(c.Choices) != 1 {
		return body
	}
	return c.Choices[0].Message.Content
}

// streamedText is the text of server-sent events, and whether they came to their end.
func streamedText(body string) (text string, whole bool) {
	for event := range strings.SplitSeq(body, "\n\n") {
		data, _ := strings.CutPrefix(event, "data: ")
		if data == "[DONE]" {
			return text, true
		}
		var c choices
		if json.Unmarshal([]byte(data), &c) == nil && len(c.Choices) == 1 {
			text += c.Choices[0].Delta.Content
		}
	}
	return text, false
}

// until waits for what must come about soon.
func (w *world) until(t *testing.T, what string, holds func() error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	if err := w.Wait(ctx, holds); err != nil {
		t.Fatalf("%s: %v", what, err)
	}
}

// each waits until something holds for what every application has tried so far.
func (s *steady) each(t *testing.T, what string, holds func(tries []attempt) error) {
	t.Helper()
	s.w.until(t, what, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		for who, tries := range s.tries {
			if err := holds(tries); err != nil {
				return fmt.Errorf("%s: %w", who, err)
			}
		}
		return nil
	})
}

// recovers waits until every application is served, by requests that it began after since,
// several times in a row.
func (s *steady) recovers(t *testing.T, since time.Time) {
	t.Helper()
	s.each(t, "recovery", func(tries []attempt) error {
		last := tries[max(0, len(tries)-recovered):]
		for _, one := range last {
			if one.outcome != served {
				return errors.New(one.detail)
			}
		}
		if len(last) < recovered || last[0].began.Before(since) {
			return errNotYet
		}
		return nil
	})
}

// fails waits until every application has met the fault in a request that it began after since.
func (s *steady) fails(t *testing.T, since time.Time) {
	t.Helper()
	s.each(t, "fault", func(tries []attempt) error {
		if n := len(tries); n == 0 || tries[n-1].outcome == served || tries[n-1].began.Before(since) {
			return errNotYet
		}
		return nil
	})
}

// goesOn wants every request since then served, and several more.
func (s *steady) goesOn(t *testing.T, since time.Time) {
	t.Helper()
	s.recovers(t, time.Now())
	s.served(t, since, time.Now())
}

// served wants every request that ended within a time served.
func (s *steady) served(t *testing.T, from, to time.Time) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, tries := range s.tries {
		for _, one := range tries {
			if one.outcome != served && one.ended.After(from) && one.ended.Before(to) {
				t.Error(one.detail)
			}
		}
	}
}

// outage tells what applications saw since then, for the log.
func (s *steady) outage(t *testing.T, what string, since time.Time) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	count := map[outcome]int{}
	var first, last time.Time
	var longest time.Duration
	for _, tries := range s.tries {
		for _, one := range tries {
			if one.began.Before(since) {
				continue
			}
			count[one.outcome]++
			longest = max(longest, one.ended.Sub(one.began))
			if one.outcome == served {
				continue
			}
			if first.IsZero() || one.ended.Before(first) {
				first = one.ended
			}
			if one.ended.After(last) {
				last = one.ended
			}
		}
	}
	t.Logf("%s: %d served, %d refused, %d broken, over %v; the longest request took %v", what,
		count[served], count[refused], count[broken], last.Sub(first).Round(time.Millisecond), longest.Round(time.Millisecond))
}

// end stops the applications and fails the test for each wrong answer.
func (s *steady) end(t *testing.T) {
	t.Helper()
	s.stop()
	s.done.Wait()
	for i, what := range s.wrong {
		if i == 20 {
			t.Errorf("… %d more", len(s.wrong)-i)
			break
		}
		t.Error("wrong: ", what)
	}
}
