import { onMount } from 'svelte';
import { ask, message } from './api';

/** Fetched is an answer that is asked for now and then again while the page is in sight; without a path nothing is asked. */
export class Fetched<T> {
  value = $state.raw<T | null>(null);
  problem = $state('');
  busy = $state(true);
  private asked = 0;

  constructor(
    private path: string,
    every = 0,
  ) {
    onMount(() => {
      if (!path) {
        this.busy = false;
        return;
      }
      void this.load();
      if (!every) return;
      const t = window.setInterval(() => {
        if (!document.hidden && !this.busy) void this.load();
      }, every);
      return () => clearInterval(t);
    });
  }

  async load() {
    const mine = ++this.asked;
    this.busy = true;
    try {
      const v = await ask<T>(this.path);
      if (mine !== this.asked) return;
      this.value = v;
      this.problem = '';
    } catch (e) {
      if (mine === this.asked) this.problem = message(e);
    } finally {
      if (mine === this.asked) this.busy = false;
    }
  }
}
