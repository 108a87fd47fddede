package s3

import "time"

// isoBasic is the form of x-amz-date. It is read and written by hand: package time
// takes as long for it as a quarter of a signature.
const isoBasic = "20060102T150405Z"

// parseDate reads x-amz-date strictly.
func parseDate(s string) (time.Time, bool) {
	if len(s) != len(isoBasic) || s[8] != 'T' || s[15] != 'Z' || !digits(s[:8], 8) || !digits(s[9:15], 6) {
		return time.Time{}, false
	}
	year, month, day := number(s[:4]), number(s[4:6]), number(s[6:8])
	hour, minute, second := number(s[9:11]), number(s[11:13]), number(s[13:15])
	if month < 1 || month > 12 || day < 1 || hour > 23 || minute > 59 || second > 59 {
		return time.Time{}, false
	}
	t := time.Date(year, time.Month(month), day, hour, minute, second, 0, time.UTC)
	return t, t.Day() == day // time.Date makes 1 March of 30 February
}

func number(s string) (n int) {
	for i := 0; i < len(s); i++ {
		n = 10*n + int(s[i]-'0')
	}
	return n
}

// appendDate writes t as x-amz-date has it. Years have four digits.
func appendDate(b []byte, t time.Time) []byte {
	t = t.UTC()
	year, month, day := t.Date()
	hour, minute, second := t.Clock()
	b = appendTwo(appendTwo(b, year/100), year%100)
	b = append(appendTwo(appendTwo(b, int(month)), day), 'T')
	return append(appendTwo(appendTwo(appendTwo(b, hour), minute), second), 'Z')
}

func appendTwo(b []byte, n int) []byte { return append(b, byte('0'+n/10%10), byte('0'+n%10)) }
