// Lines that do by hand what a button does. A token is never among them: the shell has it.
import { shell } from './format';

/** curl spells a request. */
export function curl(method: string, path: string, body?: unknown, more: string[] = []): string {
  const w = ['curl', '-sS'];
  if (method !== 'GET' && !(method === 'POST' && body !== undefined)) w.push('-X', method);
  w.push('-H', '"Authorization: Bearer $OPENTAP_TOKEN"');
  if (body !== undefined) w.push('-H', shell('Content-Type: application/json'), '-d', shell(JSON.stringify(body)));
  return [...w, ...more, shell(location.origin + path)].join(' ');
}

/** opentap spells a command of flags and their values; what has no value is left out. */
export function opentap(words: string[], flags: Record<string, string | number | boolean | undefined> = {}, rest: string[] = []): string {
  const w = ['opentap', ...words];
  for (const [k, v] of Object.entries(flags)) {
    if (v === undefined || v === '' || v === false) continue;
    w.push(k);
    if (v !== true) w.push(shell(String(v)));
  }
  if (rest.some((r) => r.startsWith('-'))) w.push('--');
  return [...w, ...rest.map(shell)].join(' ');
}

/** remote quotes words for the shell at the other end of ssh. */
export function remote(words: string[]): string {
  return words
    .map((s) => {
      const once = shell(s);
      if (once === s) return s;
      return /["$`!\\]/.test(once) ? shell(once) : `"${once}"`;
    })
    .join(' ');
}
