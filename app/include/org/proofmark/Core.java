package org.proofmark;

/**
 * Proofmark's chat core for hosts in Kotlin or Java: a handle, and JSON in and out. Configuration, commands and events
 * are those of proofmark.h. Any thread may call anything.
 */
public final class Core implements AutoCloseable {
    static {
        System.loadLibrary("app");
    }

    /** 0 once it is closed. */
    private long handle;
    /** Calls that run: the core is freed when the last one has left it. */
    private int calls;

    /** Starts the core. Throws IllegalArgumentException when the configuration is none. */
    public Core(String config) {
        handle = start(config);
    }

    /**
     * Sends a command such as {"command":"say","text":"hello"}; never waits. Throws IllegalArgumentException when it is
     * no command, IllegalStateException when too many commands wait or the core has ended. What fails later is an event,
     * "error", whose "command" names what was asked for: others are answered while a reply is being written.
     */
    public void send(String command) {
        long core = enter();
        try {
            send(core, command);
        } finally {
            leave();
        }
    }

    /** Ends the reply being written, at once. */
    public void stop() {
        long core = enter();
        try {
            stop(core);
        } finally {
            leave();
        }
    }

    /**
     * The next event; null when none came in time, the core has ended (its last event is then "refused"), or it is being
     * closed. Waits, unless timeoutMs is 0: not for the main thread. It keeps no other call waiting.
     */
    public String next(int timeoutMs) {
        long core = enter();
        try {
            return next(core, timeoutMs);
        } finally {
            leave();
        }
    }

    /** Version of this class: of its methods, and of the JSON that goes in and out. */
    public static final int ABI_VERSION = 1;

    /** ABI_VERSION of the library: another one than this class's is not to be started. */
    public static native int abiVersion();

    /** Which model is inside and what proved it. */
    public static native String provenance();

    /**
     * Ends the core and waits until everything is on disk; while a model is being loaded that is when it is loaded. Not for
     * the main thread. A next() that waits returns null.
     */
    @Override
    public void close() {
        long core;
        synchronized (this) {
            core = handle;
            handle = 0;
        }
        if (core == 0) {
            return;
        }
        end(core);
        boolean interrupted = false;
        synchronized (this) {
            while (calls > 0) {
                try {
                    wait();
                } catch (InterruptedException exception) {
                    interrupted = true;
                }
            }
        }
        free(core);
        if (interrupted) {
            Thread.currentThread().interrupt();
        }
    }

    private synchronized long enter() {
        if (handle == 0) {
            throw new IllegalStateException("the core was closed");
        }
        calls++;
        return handle;
    }

    private synchronized void leave() {
        calls--;
        notifyAll();
    }

    private static native long start(String config);

    private static native void send(long handle, String command);

    private static native void stop(long handle);

    private static native String next(long handle, int timeoutMs);

    private static native void end(long handle);

    private static native void free(long handle);
}
