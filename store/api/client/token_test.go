package client_test

import (
	"bytes"
	"strings"
	"testing"

	"keybridge/store/api/client"
)

// TestSessionToken: a token goes with its secret, sealed, and both are overwritten.
// Package e2e opens what is sealed here.
func TestSessionToken(t *testing.T) {
	p := newPlane(t)
	c, ctx := p.client(t, client.Options{}), t.Context()
	ws := must(c.CreateWorkspace(ctx, "home"))(t)
	var all []client.Secret
	fresh := func(s string) client.Secret { all = append(all, client.Secret(s)); return all[len(all)-1] }
	p.received.Reset()
	id := must(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "b", Bucket: "photos", Key: "ASIA", Secret: fresh("s3-in-clear"), SessionToken: fresh("token-in-clear")}))(t)
	must(c.UpdateBucket(ctx, id, client.BucketUpdate{Secret: fresh("s3-in-clear"), SessionToken: fresh("token-in-clear")}))(t)
	shared := must(c.CreateCredential(ctx, client.CredentialSpec{WorkspaceID: ws.ID, Provider: "AWS", Key: "ASIA", Secret: fresh("s3-in-clear"), SessionToken: fresh("token-in-clear")}))(t)
	if err := c.UpdateCredential(ctx, shared, client.CredentialUpdate{Secret: fresh("s3-in-clear"), SessionToken: fresh("token-in-clear")}); err != nil {
		t.Error(err)
	}
	for name, err := range map[string]error{
		"alone":         second(c.UpdateBucket(ctx, id, client.BucketUpdate{SessionToken: fresh("token-in-clear")})),
		"shared, alone": c.UpdateCredential(ctx, shared, client.CredentialUpdate{SessionToken: fresh("token-in-clear")}),
		"of AI":         second(c.CreateCredential(ctx, client.CredentialSpec{WorkspaceID: ws.ID, Provider: "OPENAI", Secret: fresh("ai-in-clear"), SessionToken: fresh("token-in-clear")})),
		"line end":      second(c.CreateBucket(ctx, client.BucketSpec{WorkspaceID: ws.ID, Name: "c", Bucket: "photos", Key: "ASIA", Secret: fresh("s3-in-clear"), SessionToken: fresh("token-in-clear\n")})),
	} {
		if err == nil || !strings.Contains(err.Error(), "session token") || strings.Contains(err.Error(), "in-clear") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, s := range all {
		if !bytes.Equal(s, make([]byte, len(s))) {
			t.Errorf("left %d bytes as they were", len(s))
		}
	}
	if strings.Contains(p.received.String(), "in-clear") || strings.Contains(p.received.String(), "sessionToken") {
		t.Error("a secret was sent in clear")
	}
}

func second[T any](_ T, err error) error { return err }
