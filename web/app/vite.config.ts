import { defineConfig } from 'vite';
import { svelte } from '@sveltejs/vite-plugin-svelte';

// The site goes where package web embeds it. Nothing is inlined: the page's policy forbids inline scripts, styles and data.
export default defineConfig({
  plugins: [svelte()],
  base: '/',
  build: {
    outDir: '../dist/site',
    emptyOutDir: true,
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    target: 'es2022',
    chunkSizeWarningLimit: 250,
  },
  server: { proxy: { '/v1': 'http://127.0.0.1:2020', '/openapi.json': 'http://127.0.0.1:2020' } },
});
