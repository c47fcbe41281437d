package of13

import (
	"encoding/binary"
	"fmt"
)

// Error is a switch's refusal (section 7.5.4). It implements error as well as Message.
type Error struct {
	Class uint16 // ofp_error_type
	Code  uint16
	Data  []byte // the beginning of the message that was refused, or text for hello failures
}

// Classes of errors, as far as they are named here.
const (
	ErrHelloFailed   = 0
	ErrBadRequest    = 1
	ErrBadAction     = 2
	ErrBadInstr      = 3
	ErrBadMatch      = 4
	ErrFlowModFailed = 5
	ErrGroupModFail  = 6
	ErrRoleFailed    = 11
	ErrMeterModFail  = 12
	ErrExperimenter  = 0xffff
)

// Type implements Message.
func (*Error) Type() Type { return TypeError }

func (m *Error) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint16(b, m.Class)
	b = binary.BigEndian.AppendUint16(b, m.Code)
	return append(b, m.Data...)
}

func (m *Error) decode(r *reader) {
	m.Class, m.Code = r.u16(), r.u16()
	m.Data = r.rest()
}

// errorNames says in words what classes and codes mean (section 7.5.4.1 to 7.5.4.14). Not listed: seen by nobody yet.
var errorNames = map[[2]uint16]string{
	{0, 0}: "no common version", {0, 1}: "not permitted",
	{1, 0}: "version not supported", {1, 1}: "message type not supported", {1, 2}: "multipart type not supported", {1, 3}: "experimenter not supported",
	{1, 4}: "experimenter type not supported", {1, 5}: "not permitted", {1, 6}: "wrong length", {1, 7}: "buffer was used already", {1, 8}: "buffer does not exist",
	{1, 9}: "table does not exist", {1, 10}: "this controller is a slave", {1, 11}: "port does not exist", {1, 12}: "packet is wrong", {1, 13}: "multipart request too long",
	{2, 0}: "action type not supported", {2, 1}: "action has a wrong length", {2, 2}: "action of an unknown experimenter", {2, 3}: "action type of the experimenter not supported",
	{2, 4}: "output port does not exist", {2, 5}: "action has a wrong argument", {2, 6}: "not permitted", {2, 7}: "too many actions", {2, 8}: "queue does not exist",
	{2, 9}: "group does not exist", {2, 10}: "actions cannot work on what is matched", {2, 11}: "order of actions not supported", {2, 12}: "tag cannot be pushed",
	{2, 13}: "field cannot be set", {2, 14}: "field to set has a wrong length", {2, 15}: "value to set is wrong",
	{3, 0}: "instruction not known", {3, 1}: "instruction not supported", {3, 2}: "table to go to does not exist", {3, 6}: "instruction has a wrong length",
	{4, 0}: "match type not supported", {4, 1}: "match has a wrong length", {4, 2}: "tag cannot be matched", {4, 3}: "link address mask not supported",
	{4, 4}: "network address mask not supported", {4, 5}: "combination of wildcards not supported", {4, 6}: "field cannot be matched", {4, 7}: "value to match is wrong",
	{4, 8}: "mask not supported", {4, 9}: "a field lacks the field it depends on", {4, 10}: "a field is matched twice", {4, 11}: "not permitted",
	{5, 0}: "unspecified", {5, 1}: "table is full", {5, 2}: "table does not exist", {5, 3}: "overlaps with a rule of the same priority", {5, 4}: "not permitted",
	{5, 5}: "timeout not supported", {5, 6}: "command not known", {5, 7}: "flags not supported",
	{6, 0}: "group exists already", {6, 1}: "group is wrong", {6, 2}: "weights not supported", {6, 3}: "no room for groups", {6, 4}: "no room for buckets",
	{6, 5}: "chains of groups not supported", {6, 6}: "watching ports not supported", {6, 7}: "groups would form a loop", {6, 8}: "group does not exist",
	{6, 9}: "group is used by another group", {6, 10}: "group type not supported", {6, 11}: "command not known", {6, 12}: "bucket is wrong",
	{6, 13}: "watch of a bucket is wrong", {6, 14}: "not permitted",
	{11, 0}: "stale generation: another controller was elected since", {11, 1}: "roles not supported", {11, 2}: "role not known",
	{12, 0}: "unspecified", {12, 1}: "meter exists already", {12, 2}: "meter is wrong", {12, 3}: "meter does not exist", {12, 4}: "command not known",
	{12, 5}: "flags not supported", {12, 6}: "rate not supported", {12, 7}: "burst not supported", {12, 8}: "band type not supported", {12, 9}: "band value not supported",
	{12, 10}: "no room for meters", {12, 11}: "too many bands",
}

var errorClasses = map[uint16]string{
	0: "hello failed", 1: "bad request", 2: "bad action", 3: "bad instruction", 4: "bad match", 5: "rule refused", 6: "group refused", 7: "port refused",
	8: "table refused", 9: "queue refused", 10: "configuration refused", 11: "role refused", 12: "meter refused", 13: "table features refused", 0xffff: "extension refused",
}

// Error implements error: the class and code in words.
func (m *Error) Error() string {
	class, ok := errorClasses[m.Class]
	if !ok {
		class = fmt.Sprintf("error class %d", m.Class)
	}
	name, ok := errorNames[[2]uint16{m.Class, m.Code}]
	if !ok {
		name = fmt.Sprintf("code %d", m.Code)
	}
	return fmt.Sprintf("the switch says: %s: %s (%d/%d)", class, name, m.Class, m.Code)
}

// TableFull reports that a switch has no room for more of what it was given.
func (m *Error) TableFull() bool {
	return m.Class == ErrFlowModFailed && m.Code == 1 || m.Class == ErrGroupModFail && (m.Code == 3 || m.Code == 4) || m.Class == ErrMeterModFail && m.Code == 10
}

// Slave reports a refusal because another controller is master now.
func (m *Error) Slave() bool { return m.Class == ErrBadRequest && m.Code == 10 }

// StaleGeneration reports a refusal because a later election is known to the switch.
func (m *Error) StaleGeneration() bool { return m.Class == ErrRoleFailed && m.Code == 0 }
