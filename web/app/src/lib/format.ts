// Numbers, times and durations in words. All text from the network passes visible().

const units = ['', 'k', 'M', 'G', 'T', 'P'];

function scaled(n: number, base: number): [number, string] {
  let i = 0;
  while (Math.abs(n) >= base * 0.9995 && i < units.length - 1) {
    n /= base;
    i++;
  }
  return [n, units[i]];
}

const digits = (n: number) => (Math.abs(n) >= 100 || Number.isInteger(n) ? n.toFixed(0) : n.toFixed(1));

/** count is short: 1234567 → 1.2 M. */
export function count(n: number): string {
  if (Math.abs(n) < 10_000) return Math.round(n).toLocaleString('en').replace(/,/g, '\u202f');
  const [v, u] = scaled(n, 1000);
  return digits(v) + '\u202f' + u;
}

/** exact has every digit, grouped. */
export const exact = (n: number) => Math.round(n).toLocaleString('en').replace(/,/g, '\u202f');

export function octets(n: number): string {
  const [v, u] = scaled(n, 1000);
  return digits(v) + '\u202f' + u + 'B';
}

export function perSecond(n: number): string {
  if (n === 0) return '0';
  if (n < 10) return n.toFixed(1);
  return count(n);
}

export function bits(octetsPerSecond: number): string {
  const [v, u] = scaled(octetsPerSecond * 8, 1000);
  return digits(v) + '\u202f' + u + 'b/s';
}

export const percent = (part: number, whole: number) => {
  if (!whole) return '0 %';
  const p = (100 * part) / whole;
  if (p > 0 && p < 0.1) return '< 0.1 %';
  return (p > 99.9 && p < 100 ? '> 99.9' : p.toFixed(p < 10 ? 1 : 0)) + ' %';
};

/** duration of so many seconds: 3 s, 4 min 10 s, 2 h 5 min, 3 d 4 h. */
export function duration(s: number): string {
  if (!isFinite(s)) return '∞';
  if (s < 0) s = 0;
  if (s < 1) return `${Math.round(s * 1000)} ms`;
  if (s < 10) return `${s.toFixed(1)} s`;
  s = Math.round(s);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min${s % 60 ? ` ${s % 60} s` : ''}`;
  if (s < 86400) return `${Math.floor(s / 3600)} h${Math.floor((s % 3600) / 60) ? ` ${Math.floor((s % 3600) / 60)} min` : ''}`;
  return `${Math.floor(s / 86400)} d${Math.floor((s % 86400) / 3600) ? ` ${Math.floor((s % 86400) / 3600)} h` : ''}`;
}

/** seconds of a duration as the interface spells it: 1h2m3.5s. NaN when it is none. */
export function seconds(text: string): number {
  const per: Record<string, number> = { h: 3600, m: 60, s: 1, ms: 1e-3, us: 1e-6, µs: 1e-6, ns: 1e-9 };
  let total = 0;
  let rest = text.trim();
  if (rest === '0') return 0;
  if (!rest) return NaN;
  while (rest) {
    const m = /^(\d+(?:\.\d+)?)(ms|us|µs|ns|h|m|s)/.exec(rest);
    if (!m) return NaN;
    total += Number(m[1]) * per[m[2]];
    rest = rest.slice(m[0].length);
  }
  return total;
}

const two = (n: number) => String(n).padStart(2, '0');

export function clock(t: Date, utc: boolean, fraction = 0): string {
  const h = utc ? t.getUTCHours() : t.getHours();
  const m = utc ? t.getUTCMinutes() : t.getMinutes();
  const s = utc ? t.getUTCSeconds() : t.getSeconds();
  const ms = String(utc ? t.getUTCMilliseconds() : t.getMilliseconds()).padStart(3, '0');
  return `${two(h)}:${two(m)}:${two(s)}${fraction ? '.' + ms.slice(0, fraction) : ''}`;
}

export function date(t: Date, utc: boolean): string {
  return utc ? `${t.getUTCFullYear()}-${two(t.getUTCMonth() + 1)}-${two(t.getUTCDate())}` : `${t.getFullYear()}-${two(t.getMonth() + 1)}-${two(t.getDate())}`;
}

/** stamp is date and time of an RFC 3339 text; today's date is left out. */
export function stamp(text: string | undefined, utc: boolean): string {
  if (!text) return '–';
  const t = new Date(text);
  if (isNaN(t.getTime())) return visible(text);
  const d = date(t, utc);
  return (d === date(new Date(), utc) ? '' : d + ' ') + clock(t, utc) + (utc ? ' UTC' : '');
}

export function ago(text: string | undefined, now: number): string {
  if (!text) return 'never';
  const s = (now - new Date(text).getTime()) / 1000;
  return s < 5 ? 'just now' : duration(Math.round(s)).split(' ').slice(0, 2).join(' ') + ' ago';
}

/** visible shows text that a stranger wrote: what would steer or mislead a reader is spelt out, and it ends somewhere. */
export function visible(text: string | undefined | null, most = 400): string {
  let s = String(text ?? '');
  let cut = '';
  if (s.length > most) {
    s = s.slice(0, most);
    cut = `… (${exact(String(text).length - most)} more)`;
  }
  return (
    // eslint-disable-next-line no-control-regex
    s.replace(/[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffc]/g, (c) => {
      const n = c.charCodeAt(0);
      return n < 0x20 ? String.fromCharCode(0x2400 + n) : '⟨' + n.toString(16).padStart(2, '0') + '⟩';
    }) + cut
  );
}

/** shell quotes one word for a POSIX shell. */
export const shell = (s: string) => (/^[A-Za-z0-9_./:=@%+,-]+$/.test(s) ? s : `'${s.replace(/'/g, `'\\''`)}'`);

/** plural counts things: 1 flow, 2 flows. */
export const plural = (n: number, one: string, many = one + 's') => `${exact(n)} ${n === 1 ? one : many}`;
