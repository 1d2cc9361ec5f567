package org.proofmark;

import java.util.concurrent.locks.Lock;
import java.util.concurrent.locks.ReadWriteLock;
import java.util.concurrent.locks.ReentrantReadWriteLock;

/**
 * Proofmark's chat core for hosts in Kotlin or Java: a handle, and JSON in and out. Configuration, commands and events
 * are those of proofmark.h. Any thread may call anything.
 */
public final class Core implements AutoCloseable {
    static {
        System.loadLibrary("app");
    }

    /** Closing waits for the calls that run: none of them may use a core that is gone. */
    private final ReadWriteLock lock = new ReentrantReadWriteLock();
    private long handle;

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
        Lock shared = open();
        try {
            send(handle, command);
        } finally {
            shared.unlock();
        }
    }

    /** Ends the reply being written, at once. */
    public void stop() {
        Lock shared = open();
        try {
            stop(handle);
        } finally {
            shared.unlock();
        }
    }

    /** The next event; null when none came in time, or the core has ended. Waits: not for the main thread. */
    public String next(int timeoutMs) {
        Lock shared = open();
        try {
            return next(handle, timeoutMs);
        } finally {
            shared.unlock();
        }
    }

    /** Which model is inside and what proved it. */
    public static native String provenance();

    /** Ends the core and waits until everything is on disk. */
    @Override
    public void close() {
        lock.writeLock().lock();
        try {
            if (handle != 0) {
                close(handle);
                handle = 0;
            }
        } finally {
            lock.writeLock().unlock();
        }
    }

    private Lock open() {
        Lock shared = lock.readLock();
        shared.lock();
        if (handle == 0) {
            shared.unlock();
            throw new IllegalStateException("the core was closed");
        }
        return shared;
    }

    private static native long start(String config);

    private static native void send(long handle, String command);

    private static native void stop(long handle);

    private static native String next(long handle, int timeoutMs);

    private static native void close(long handle);
}
