package httpapi

import (
	"bytes"
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"os"
	"reflect"
	"strings"
	"time"

	"opentap/fault"
)

// maxDepth bounds how deep JSON may nest.
const maxDepth = 32

// DecodeJSON reads a request body into dst, a pointer to a struct. Nothing is guessed: unknown and repeated fields, other
// spellings of a field, wrong types, text after the value, and other media types are refused with the field's name.
// Requiring application/json also keeps a web page's plain form from being taken for a request.
func DecodeJSON(w http.ResponseWriter, r *http.Request, dst any) error {
	mt, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mt != "application/json" {
		return WithStatus(http.StatusUnsupportedMediaType, fault.Invalid, "the body must be JSON and the Content-Type application/json")
	}
	body, err := ReadBody(w, r)
	if err != nil {
		return err
	}
	return ParseJSON(body, dst)
}

// ReadBody reads the whole request body, within the gate's limits of size and time.
func ReadBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body, err := io.ReadAll(r.Body)
	var tooLarge *http.MaxBytesError
	switch {
	case errors.As(err, &tooLarge):
		return nil, WithStatus(http.StatusRequestEntityTooLarge, fault.Invalid, "the body is larger than %d octets", tooLarge.Limit)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, WithStatus(http.StatusRequestTimeout, fault.Invalid, "the body did not arrive in time")
	case err != nil:
		return nil, WithStatus(http.StatusBadRequest, fault.Invalid, "the body could not be read")
	}
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
	return body, nil
}

// ParseJSON is DecodeJSON for bytes.
func ParseJSON(body []byte, dst any) error {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.UseNumber()
	if err := checkValue(dec, reflect.TypeOf(dst).Elem(), "", 0); err != nil {
		return notJSON(err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return fault.New(fault.Invalid, "the body goes on after the JSON value")
	}
	if bytes.HasPrefix(bytes.TrimSpace(body), []byte("null")) {
		return fault.New(fault.Invalid, "the body is null; an object is wanted")
	}
	if err := json.Unmarshal(body, dst); err != nil {
		return notJSON(err)
	}
	return nil
}

// notJSON explains encoding/json's errors in our words.
func notJSON(err error) error {
	var f *fault.Error
	var syntax *json.SyntaxError
	var wrong *json.UnmarshalTypeError
	switch {
	case errors.As(err, &f):
		return err
	case errors.As(err, &wrong):
		return fault.Field(wrong.Field, "a JSON %s cannot be taken as %s", wrong.Value, typeName(wrong.Type))
	case errors.As(err, &syntax):
		return fault.New(fault.Invalid, "the body is not JSON: %v, at octet %d", syntax, syntax.Offset)
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return fault.New(fault.Invalid, "the body is not JSON: it ends too early")
	}
	return fault.New(fault.Invalid, "the body is not as expected: %v", err)
}

func typeName(t reflect.Type) string {
	switch t.Kind() {
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "true or false"
	case reflect.Int, reflect.Int8, reflect.Int16, reflect.Int32, reflect.Int64:
		return "a whole number"
	case reflect.Uint, reflect.Uint8, reflect.Uint16, reflect.Uint32, reflect.Uint64:
		return "a whole number, 0 or more"
	case reflect.Slice, reflect.Array:
		return "a list"
	}
	return "an object"
}

var (
	jsonType = reflect.TypeFor[json.Unmarshaler]()
	textType = reflect.TypeFor[encoding.TextUnmarshaler]()
)

// checkValue walks one JSON value beside the type that is to take it. t is nil below a value that is not ours to know.
func checkValue(dec *json.Decoder, t reflect.Type, at string, depth int) error {
	if depth > maxDepth {
		return fault.Field(at, "nested deeper than %d levels", maxDepth)
	}
	if t != nil && (reflect.PointerTo(t).Implements(jsonType) || reflect.PointerTo(t).Implements(textType)) {
		var raw json.RawMessage
		if err := dec.Decode(&raw); err != nil {
			return err
		}
		if err := json.Unmarshal(raw, reflect.New(t).Interface()); err != nil {
			var wrong *json.UnmarshalTypeError
			if errors.As(err, &wrong) {
				return fault.Field(at, "a JSON %s cannot be taken here; it is written as text", wrong.Value)
			}
			if t == reflect.TypeFor[time.Time]() {
				return fault.Field(at, "not a time such as 2006-01-02T15:04:05Z (RFC 3339)")
			}
			return fault.Field(at, "%v", err)
		}
		return nil
	}
	tok, err := dec.Token()
	if err != nil {
		return err
	}
	delim, _ := tok.(json.Delim)
	switch delim {
	case '{':
		return checkObject(dec, t, at, depth)
	case '[':
		var elem reflect.Type
		if t != nil && t.Kind() == reflect.Slice {
			elem = t.Elem()
		}
		for i := 0; dec.More(); i++ {
			if err := checkValue(dec, elem, fmt.Sprintf("%s[%d]", at, i), depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
		return err
	}
	return nil
}

func checkObject(dec *json.Decoder, t reflect.Type, at string, depth int) error {
	seen := make(map[string]bool)
	for dec.More() {
		tok, err := dec.Token()
		if err != nil {
			return err
		}
		name, _ := tok.(string)
		path := name
		if at != "" {
			path = at + "." + name
		}
		if seen[name] {
			return fault.Field(path, "given twice")
		}
		seen[name] = true
		var sub reflect.Type
		if t != nil {
			switch t.Kind() {
			case reflect.Struct:
				var ok bool
				if sub, ok = fieldNamed(t, name); !ok {
					return fault.Field(path, "no such field")
				}
			case reflect.Map:
				sub = t.Elem()
			}
		}
		if err := checkValue(dec, sub, path, depth+1); err != nil {
			return err
		}
	}
	_, err := dec.Token()
	return err
}

// fieldNamed finds the field that JSON spells so, exactly: encoding/json alone would also take other cases.
func fieldNamed(t reflect.Type, name string) (reflect.Type, bool) {
	for _, f := range reflect.VisibleFields(t) {
		tag, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if f.IsExported() && tag != "-" && tag != "" && tag == name {
			ft := f.Type
			for ft.Kind() == reflect.Pointer {
				ft = ft.Elem()
			}
			return ft, true
		}
	}
	return nil, false
}

// WriteJSON answers with v.
func WriteJSON(w http.ResponseWriter, status int, v any) error {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(true)
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("encode answer: %w", err)
	}
	h := w.Header()
	h.Set("Content-Type", "application/json")
	h.Set("Content-Length", fmt.Sprint(b.Len()))
	w.WriteHeader(status)
	_, err := w.Write(b.Bytes())
	if err != nil {
		return ErrAborted
	}
	return nil
}
