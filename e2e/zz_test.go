package e2e_test
import ("testing";"io";"github.com/aws/aws-sdk-go-v2/aws";"github.com/aws/aws-sdk-go-v2/service/s3";"bytes")
func TestZZ(t *testing.T) {
	w := shared(t)
	for i, c := range []*s3.Client{w.s3.Direct(), w.s3SDK(w.admin), w.s3At(unhurried(t,false), w.admin)} {
		_, err := c.PutObject(t.Context(), &s3.PutObjectInput{Bucket: aws.String(bucket), Key: aws.String("zz"), ContentLength: aws.Int64(1<<20), Body: io.NopCloser(bytes.NewReader(make([]byte,1<<20)))}, v4UnsignedPayload)
		t.Log(i, err)
	}
	for _, q := range w.frontS3.Requests() { t.Log(q.Line(), q.Header) }
	for _, q := range w.s3.Requests() { t.Log("AT PROVIDER", q.Line(), q.Header) }
}
