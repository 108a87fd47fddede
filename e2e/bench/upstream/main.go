// Command upstream is the provider of the benchmark's uploads: it reads bodies and
// tells how long they were. A request with the header x-bench-check is answered with
// what arrived, as JSON.
package main

import (
	"encoding/json"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strconv"
	"sync"
	"time"
)

// Shown is what a request looked like.
type Shown struct {
	Method, Path, Host string
	Header             http.Header
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 256<<10); return &b }}

func main() {
	log.SetFlags(0)
	if len(os.Args) != 2 {
		log.Fatal("usage: upstream ADDRESS")
	}
	l, err := net.Listen("tcp", os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	log.Fatal((&http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: 10 * time.Second}).Serve(l))
}

func answer(w http.ResponseWriter, r *http.Request) {
	n, err := discard(r.Body)
	if err != nil || r.ContentLength >= 0 && n != r.ContentLength {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	w.Header().Set("X-Bench-Bytes", strconv.FormatInt(n, 10))
	if r.Header.Get("X-Bench-Check") != "" {
		_ = json.NewEncoder(w).Encode(Shown{r.Method, r.RequestURI, r.Host, r.Header})
	}
}

func discard(body io.Reader) (n int64, err error) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	for {
		m, err := body.Read(*b)
		n += int64(m)
		if err == io.EOF {
			return n, nil
		}
		if err != nil {
			return n, err
		}
	}
}
