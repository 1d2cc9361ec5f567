//! The same surface for Kotlin and Java: the natives of `include/org/proofmark/Core.java`.
//!
//! **Invariant:** as in [`crate::capi`], whose functions these are: no panic crosses the border. What goes wrong is an
//! exception there. A handle comes from `start` alone and is closed once: the class sees to it.

use std::{ffi::c_int, sync::Arc, time::Duration};

use jni::{
    Env, EnvUnowned,
    errors::{Error, ThrowRuntimeExAndDefault},
    jni_str,
    objects::{JClass, JString},
    strings::JNIString,
    sys::{jint, jlong},
};

use crate::capi::{self, PROOFMARK_INVALID, Proofmark};

/// Runs the body of a native method. An error or a panic becomes a runtime exception.
fn native<'local, T: Default>(
    mut env: EnvUnowned<'local>,
    act: impl FnOnce(&mut Env<'local>) -> Result<T, Error>,
) -> T {
    env.with_env(act).resolve::<ThrowRuntimeExAndDefault>()
}

/// Throws what a host did wrong as the one, and what the core cannot do now as the other.
fn throw(env: &mut Env<'_>, code: c_int, message: &str) -> Error {
    let message = JNIString::new(message);
    let thrown = if code == PROOFMARK_INVALID {
        env.throw_new(jni_str!("java/lang/IllegalArgumentException"), message)
    } else {
        env.throw_new(jni_str!("java/lang/IllegalStateException"), message)
    };
    thrown.err().unwrap_or(Error::JavaException)
}

/// The core behind a handle.
#[expect(unsafe_code, reason = "the class hands out what `start` gave it, until it is closed")]
fn core(handle: jlong) -> Arc<capi::Core> {
    // SAFETY: from `start`; `Core.java` begins nothing with it after `close`, and frees it when the last call has left.
    unsafe { &*(handle as *const Proofmark) }.core()
}

/// `Core.start`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_start<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
    config: JString<'local>,
) -> jlong {
    native(env, |env| {
        let config = config.try_to_string(env)?;
        match capi::start(&config) {
            Ok(core) => Ok(Box::into_raw(Box::new(core)) as jlong),
            Err(message) => Err(throw(env, PROOFMARK_INVALID, &message)),
        }
    })
}

/// `Core.send`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_send<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
    command: JString<'local>,
) {
    native(env, |env| {
        let command = command.try_to_string(env)?;
        capi::send(&core(handle), &command).map_err(|(code, message)| throw(env, code, &message))
    });
}

/// `Core.stop`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_stop<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
) {
    native(env, |_| {
        core(handle).stop();
        Ok(())
    });
}

/// `Core.next`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_next<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
    timeout_ms: jint,
) -> JString<'local> {
    native(env, |env| {
        let timeout = Duration::from_millis(timeout_ms.max(0).unsigned_abs().into());
        match capi::next(&core(handle), timeout) {
            Some(event) => JString::new(env, event),
            None => Ok(JString::default()),
        }
    })
}

/// `Core.abiVersion`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_abiVersion<'local>(
    _: EnvUnowned<'local>,
    _: JClass<'local>,
) -> jint {
    capi::PROOFMARK_ABI_VERSION.cast_signed()
}

/// `Core.provenance`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_provenance<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
) -> JString<'local> {
    native(env, |env| match crate::provenance() {
        Ok(provenance) => JString::new(env, provenance.to_string()),
        Err(error) => Err(throw(env, capi::PROOFMARK_GONE, &format!("{error:#}"))),
    })
}

/// `Core.end`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_end<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
) {
    native(env, |_| {
        core(handle).close();
        Ok(())
    });
}

/// `Core.free`.
#[expect(unsafe_code, reason = "the name by which the class finds it")]
#[unsafe(no_mangle)]
pub extern "system" fn Java_org_proofmark_Core_free<'local>(
    env: EnvUnowned<'local>,
    _: JClass<'local>,
    handle: jlong,
) {
    native(env, |_| {
        // SAFETY: as in `core`, and for the last time.
        unsafe { capi::proofmark_close(handle as *mut Proofmark) };
        Ok(())
    });
}
