package e2e_test
import ("testing";"io";"github.com/aws/aws-sdk-go-v2/aws";"github.com/aws/aws-sdk-go-v2/service/s3";"time")
func TestZZ(t *testing.T) {
	w := shared(t)
	c:= w.s3SDK(w.admin)
	for _, c := range []*s3.Client{w.s3.Direct(), c} {
	rest, more := io.Pipe()
	go func() { more.Write(make([]byte, 1<<19)); time.Sleep(time.Second);
	 more.Write(make([]byte, 1<<19)); more.Close() }()
	b := time.Now()
		_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("zz"), ContentLength: aws.Int64(1<<20), Body: rest}, v4UnsignedPayload)
	t.Log(err, time.Since(b))
	rest.Close()
	}
	for _, q := range w.frontS3.Requests() { t.Log("AT FRONT", q.Line(), q.Header) }
	for _, q := range w.s3.Requests() { t.Log("AT PROVIDER", q.Line(), q.Header) }
}
