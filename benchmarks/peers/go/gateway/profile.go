package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"regexp"
	"slices"
	"time"
	"unicode/utf8"
)

// field is absent, null, or text.
type field struct {
	isThere, isNull bool
	text            string
}

func (f *field) UnmarshalJSON(value []byte) error {
	f.isThere, f.isNull = true, bytes.Equal(value, []byte("null"))
	return json.Unmarshal(value, &f.text)
}

func (f field) MarshalJSON() ([]byte, error) {
	if f.isNull {
		return []byte("null"), nil
	}
	return json.Marshal(f.text)
}

func (f field) IsZero() bool { return !f.isThere }

type profile struct {
	PatientId   string
	FirstName   field `json:",omitzero"`
	LastName    field `json:",omitzero"`
	DateOfBirth field `json:",omitzero"`
	Sex         field `json:",omitzero"`
	IsPregnant  field `json:",omitzero"`
	Email       field `json:",omitzero"`
	Phone       field `json:",omitzero"`
	Address     field `json:",omitzero"`
}

var email = regexp.MustCompile(`^[\w+-]+(\.[\w+-]+)*@([a-z0-9-]{1,63}\.)+[a-z]{2,24}$`)

// parse reads one update or an array of them, and validates each.
func parse(body []byte, isArray bool) ([]profile, error) {
	profiles := make([]profile, 1)
	var into any = &profiles[0]
	if isArray {
		into = &profiles
	}
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(into); err != nil {
		return nil, err
	}
	if _, err := decoder.Token(); err != io.EOF {
		return nil, errors.New("more than one JSON text")
	}
	for i := range profiles {
		if err := profiles[i].validate(); err != nil {
			return nil, err
		}
	}
	return profiles, nil
}

func (p *profile) validate() error {
	switch {
	case !isText(p.PatientId, 128, ""), p.PatientId == ".", p.PatientId == "..":
		return errors.New("PatientId is not valid")
	case !p.FirstName.isValid(func(s string) bool { return isText(s, 100, "") }):
		return errors.New("FirstName is not valid")
	case !p.LastName.isValid(func(s string) bool { return isText(s, 100, "") }):
		return errors.New("LastName is not valid")
	case !p.DateOfBirth.isValid(isDate):
		return errors.New("DateOfBirth is not valid")
	case !p.Sex.isOneOf("Female", "Male", "Other", "Unknown"):
		return errors.New("Sex is not valid")
	case !p.IsPregnant.isOneOf("True", "False"):
		return errors.New("IsPregnant is not valid")
	case !p.Email.isValid(func(s string) bool { return len(s) <= 254 && email.MatchString(s) }):
		return errors.New("Email is not valid")
	case !p.Phone.isValid(func(s string) bool { return isText(s, 32, "") }):
		return errors.New("Phone is not valid")
	case !p.Address.isValid(func(s string) bool { return isText(s, 500, "\r\n") }):
		return errors.New("Address is not valid")
	}
	return nil
}

func (f field) isValid(check func(string) bool) bool {
	return !f.isThere || f.isNull || check(f.text)
}

func (f field) isOneOf(words ...string) bool {
	return f.isValid(func(s string) bool { return slices.Contains(words, s) })
}

func isDate(s string) bool {
	_, err := time.Parse(time.DateOnly, s)
	return err == nil
}

// isText accepts 1 to `most` characters, and no controls but those in `allowed`.
func isText(s string, most int, allowed string) bool {
	for _, r := range s {
		isControl := r < 0x20 || r >= 0x7f && r <= 0x9f
		if r == utf8.RuneError || isControl && !slices.Contains([]rune(allowed), r) {
			return false
		}
	}
	length := utf8.RuneCountInString(s)
	return length >= 1 && length <= most
}
