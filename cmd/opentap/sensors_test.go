package main

import (
	"bytes"
	"strings"
	"testing"

	"opentap/api/doortest"
	"opentap/report"
)

func TestSensorsScan(t *testing.T) {
	_, srv := newServer(doortest.Users())
	defer srv.Close()
	call := func(token string, args ...string) (int, string, string) {
		var out, errs bytes.Buffer
		code := run(append([]string{"sensors", "scan", "--url", srv.URL, "--token", token}, args...), strings.NewReader(""), &out, &errs)
		return code, out.String(), errs.String()
	}
	code, out, errs := call("admin", "-o", "csv")
	want := "name,aliases,node,quantity,value,unit,notes\n" +
		"hwmon/coretemp/temp1,coretemp Package id 0,tap1,temperature,21.5,Cel,\nrack,,tap1,temperature,,Cel,the board is not attached\n"
	if code != report.ExitOK || out != want || !strings.Contains(errs, "tcp://10.0.0.9:1883 cannot be used") {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
	if code, out, errs = call("viewer"); code != report.ExitRefused || out != "" {
		t.Errorf("%d\n%s%s", code, out, errs)
	}
}
