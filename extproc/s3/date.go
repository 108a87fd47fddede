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
	text := [len(isoBasic)]byte{8: 'T', 15: 'Z'}
	put := func(at, n int) { text[at], text[at+1] = byte('0'+n/10), byte('0'+n%10) }
	put(0, year/100)
	put(2, year%100)
	put(4, int(month))
	put(6, day)
	put(9, hour)
	put(11, minute)
	put(13, second)
	return append(b, text[:]...)
}
