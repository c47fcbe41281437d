package mqtt

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
)

// valueOf finds the value in a message: a number, a number in quotes, or true and false for 1 and 0. field leads through a JSON
// message, with dots between the names of members and the places of elements.
func valueOf(payload []byte, field string) (float64, error) {
	if len(payload) > maxMessage {
		return 0, fmt.Errorf("the message has %d octets, at most %d are read", len(payload), maxMessage)
	}
	if field == "" {
		return number(strings.TrimSpace(string(payload)))
	}
	d := json.NewDecoder(bytes.NewReader(payload))
	d.UseNumber()
	var v any
	if err := d.Decode(&v); err != nil {
		return 0, errors.New("the message is not JSON")
	}
	for name := range strings.SplitSeq(field, ".") {
		switch in := v.(type) {
		case map[string]any:
			inner, ok := in[name]
			if !ok {
				return 0, fmt.Errorf("the message has no %s", field)
			}
			v = inner
		case []any:
			i, err := strconv.Atoi(name)
			if err != nil || i < 0 || i >= len(in) {
				return 0, fmt.Errorf("the message has no %s", field)
			}
			v = in[i]
		default:
			return 0, fmt.Errorf("the message has no %s", field)
		}
	}
	switch v := v.(type) {
	case json.Number:
		return number(v.String())
	case string:
		return number(strings.TrimSpace(v))
	case bool:
		if v {
			return 1, nil
		}
		return 0, nil
	}
	return 0, fmt.Errorf("%s of the message is no number", field)
}

// number reads a number, or a word that stands for one.
func number(s string) (float64, error) {
	switch strings.ToLower(s) {
	case "true", "on":
		return 1, nil
	case "false", "off":
		return 0, nil
	}
	v, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(v) || math.IsInf(v, 0) {
		return 0, fmt.Errorf("the message says %.40q, which is no number", s)
	}
	return v, nil
}
