package etcd

import (
	"context"
	"log/slog"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// zapTo makes etcd's logger write its warnings to log. When onFatal is given, etcd's wish to end the process (a Fatal or
// Panic entry) ends only the goroutine that has it, after onFatal was told.
func zapTo(log *slog.Logger, onFatal func(msg string, fields map[string]any)) *zap.Logger {
	core := &bridge{log: log}
	if onFatal == nil {
		return zap.New(core)
	}
	hook := fatalHook(onFatal)
	return zap.New(core, zap.WithFatalHook(hook), zap.WithPanicHook(hook))
}

// bridge is a zapcore.Core over slog.
type bridge struct {
	log    *slog.Logger
	fields []zapcore.Field
}

// quiet are etcd's warnings that tell an administrator nothing.
var quiet = map[string]bool{
	"Failed to detect schema version":  true, // of each first start: the version is written a moment later
	"failed to update storage version": true, // the same
	"failed to apply request":          true, // the caller got the error
}

// Enabled implements zapcore.LevelEnabler: etcd's chatter below a warning is not ours to repeat.
func (b *bridge) Enabled(l zapcore.Level) bool { return l >= zapcore.WarnLevel }

// With implements zapcore.Core.
func (b *bridge) With(f []zapcore.Field) zapcore.Core {
	return &bridge{log: b.log, fields: append(append([]zapcore.Field(nil), b.fields...), f...)}
}

// Check implements zapcore.Core.
func (b *bridge) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if b.Enabled(e.Level) {
		return ce.AddCore(e, b)
	}
	return ce
}

// Write implements zapcore.Core.
func (b *bridge) Write(e zapcore.Entry, fields []zapcore.Field) error {
	level := slog.LevelWarn
	if quiet[e.Message] {
		level = slog.LevelDebug
	} else if e.Level >= zapcore.ErrorLevel {
		level = slog.LevelError
	}
	if !b.log.Enabled(context.Background(), level) {
		return nil
	}
	attrs := []slog.Attr{slog.String("room", "etcd")}
	for k, v := range encode(b.fields, fields) {
		attrs = append(attrs, slog.Any(k, v))
	}
	b.log.LogAttrs(context.Background(), level, e.Message, attrs...)
	return nil
}

// Sync implements zapcore.Core.
func (b *bridge) Sync() error { return nil }

func encode(lists ...[]zapcore.Field) map[string]any {
	enc := zapcore.NewMapObjectEncoder()
	for _, l := range lists {
		for _, f := range l {
			f.AddTo(enc)
		}
	}
	return enc.Fields
}
