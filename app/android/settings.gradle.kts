pluginManagement {
    repositories {
        google()
        mavenCentral()
        gradlePluginPortal()
    }
}

dependencyResolutionManagement {
    repositoriesMode = RepositoriesMode.FAIL_ON_PROJECT_REPOS
    repositories {
        google()
        mavenCentral()
    }
}

rootProject.name = "proofmark"
include(":app")
// A linked model travels in a pack of its own: a base module ends at 200 MB. An embedded one is part of libapp.so.
if (file("modelpack/src/main/assets").list().orEmpty().any { it.endsWith(".pte") }) {
    include(":modelpack")
}
