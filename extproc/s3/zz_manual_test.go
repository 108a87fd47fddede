package s3_test

import (
	"context"
	"fmt"
	"os"
	"testing"
	"time"
	"strconv"
	"log/slog"

	"keybridge/extproc"
	"keybridge/extproc/grant"
	"keybridge/extproc/protocoltest"
	"keybridge/extproc/s3"
	"keybridge/keyshare/seal"
)

type spy struct{ extproc.Protocol }
func (s spy) Decide(now time.Time, r *extproc.Request) (*extproc.Decision, *extproc.Error) {
	d, e := s.Protocol.Decide(now, r)
	if os.Getenv("SPY") != "" {
		fmt.Println(r.Method, r.Path, r.Authority, r.Headers())
		if e != nil { fmt.Println("  refused", e.Status, e.Reason) }
	}
	return d, e
}

func TestManual(t *testing.T) {
	sock := os.Getenv("SOCK")
	if sock == "" { t.Skip() }
	port, _ := strconv.Atoi(os.Getenv("VGW"))
	w := protocoltest.NewWorld(t)
	w.Bucket(workspace, "photos", func(in *grant.ConnectorInput, h *seal.Header) {
		in.Region = "us-east-1"; in.Cluster = "vgw"
		h.Binding.Scheme, h.Binding.Host, h.Binding.Port = "http", "127.0.0.1", uint16(port)
	})
	w.Repository(workspace, "r", false, "photos")
	k := w.Key(workspace, "r", grant.UseStorageKey, grant.AccessAdmin, nil)
	fmt.Println("KEY", k.ID, k.Secret, protocoltest.ProviderKey("photos"), protocoltest.ProviderSecret("photos"))
	w.Publish()
	l, err := extproc.Listen(sock, os.Getuid())
	if err != nil { t.Fatal(err) }
	ctx, c := context.WithTimeout(context.Background(), 100*time.Second)
	defer c()
	s := extproc.NewServer(map[string]extproc.Protocol{"s3": spy{s3.New(&w.Live)}}, extproc.Options{Logger: slog.New(slog.NewTextHandler(os.Stdout, &slog.HandlerOptions{Level: slog.LevelDebug}))})
	fmt.Println(s.Serve(ctx, l))
}
