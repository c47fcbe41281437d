package segment

import (
	"bytes"
	"hash/crc32"
	"os"
)

// The chunk table of docs/format/segment.md: a cache of a sealed segment's chunk headers.
const (
	magicTable  = "OTCT"
	tableHead   = 32
	tableEntry  = 8 + fieldsEnd - fieldsStart
	maxTable    = 1 << 30
	tableFormat = 1
)

// appendEntry appends the entry of the chunk b at offset.
func appendEntry(dst []byte, offset int64, b []byte) []byte {
	dst = le.AppendUint64(dst, uint64(offset))
	return append(dst, b[fieldsStart:fieldsEnd]...)
}

// writeTable writes the table of a segment. Since readers do without, errors only mean that there is none.
func writeTable(path string, recordID uint64, n uint32, t *totals, entries []byte) {
	b := make([]byte, 0, tableHead)
	b = append(b, magicTable...)
	b = le.AppendUint32(b, tableFormat)
	b = le.AppendUint64(b, recordID)
	b = le.AppendUint32(b, n)
	b = le.AppendUint32(b, t.chunks)
	b = le.AppendUint32(b, t.chain)
	b = le.AppendUint32(b, crc32.Checksum(entries, castagnoli))
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o640)
	if err != nil {
		return
	}
	_, err = f.Write(b)
	if err == nil {
		_, err = f.Write(entries)
	}
	if cerr := f.Close(); err != nil || cerr != nil {
		os.Remove(path)
	}
}

// readTable returns the entries of the table of in, or nil if there is none that fits its seal.
func readTable(path string, in *Info) []byte {
	st, err := os.Stat(path)
	want := int64(tableHead) + int64(in.Chunks)*tableEntry
	if err != nil || st.Size() != want || want > maxTable {
		return nil
	}
	b, err := os.ReadFile(path)
	if err != nil || int64(len(b)) != want || !bytes.Equal(b[:4], []byte(magicTable)) || le.Uint32(b[4:]) != tableFormat ||
		le.Uint64(b[8:]) != in.recordID || le.Uint32(b[16:]) != in.Number || le.Uint32(b[20:]) != in.Chunks || le.Uint32(b[24:]) != in.chain {
		return nil
	}
	entries := b[tableHead:]
	if crc32.Checksum(entries, castagnoli) != le.Uint32(b[28:]) {
		return nil
	}
	return entries
}
