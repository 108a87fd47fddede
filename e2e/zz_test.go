package e2e_test
import ("testing";"io";"github.com/aws/aws-sdk-go-v2/aws";"github.com/aws/aws-sdk-go-v2/service/s3";"time")
func TestZZ(t *testing.T) {
	w := shared(t)
	c:= w.s3At(unhurried(t,false), w.admin)
	for range 2 {
	rest, more := io.Pipe()
	put := make(chan error, 1)
	go func() {
		_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("zz"), ContentLength: aws.Int64(1<<20), Body: rest}, v4UnsignedPayload)
		put <- err
	}()
	b := time.Now()
	_, err := more.Write(make([]byte, 1<<19))
	t.Log(err, time.Since(b))
	_, err = more.Write(make([]byte, 1<<19))
	more.Close()
	t.Log(err, time.Since(b))
	t.Log(<-put, time.Since(b))
	}
	for _, q := range w.s3.Requests() { t.Log("AT PROVIDER", q.Line(), q.Header) }
}
